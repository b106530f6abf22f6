// A reader of CSV with quoted fields, as RFC 4180 describes it.
export function parseCsv(text: string): Record<string, string>[] {
  const [header, ...rows] = splitRows(text);
  if (!header) {
    return [];
  }
  return rows.map((row, i) => {
    if (row.length !== header.length) {
      throw new Error(`row ${i + 2} has ${row.length} fields, the header has ${header.length}`);
    }
    return Object.fromEntries(header.map((name, column) => [name, row[column]]));
  });
}

function splitRows(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  let field: string[] = [];
  let quoted = false;
  const endField = () => {
    row.push(field.join(""));
    field = [];
  };
  const endRow = () => {
    endField();
    if (row.length > 1 || row[0] !== "") {
      rows.push(row);
    }
    row = [];
  };
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quoted) {
      if (c !== '"') {
        field.push(c);
      } else if (text[i + 1] === '"') {
        field.push(c);
        i++;
      } else {
        quoted = false;
      }
    } else if (c === '"') {
      quoted = true;
    } else if (c === ",") {
      endField();
    } else if (c === "\n") {
      endRow();
    } else if (c !== "\r") {
      field.push(c);
    }
  }
  if (quoted) {
    throw new Error("a quoted field is not closed");
  }
  endRow();
  return rows;
}
