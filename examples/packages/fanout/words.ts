interface Part {
  name: string;
  text: string;
}

interface Count {
  name: string;
  words: number;
  longest: string;
}

// split makes the list that the chain's `each` goes over.
export function split(input: { text: string }): { parts: Part[] } {
  const parts = input.text
    .split(/\n\s*\n/)
    .map((text) => text.trim())
    .filter((text) => text !== "")
    .map((text, i) => ({ name: `part-${i + 1}`, text }));
  return { parts };
}

// count works on one part; several run at once.
export function count(input: Part): Count {
  const words = input.text.match(/[^\s.,;:!?"()]+/g) ?? [];
  const longest = words.reduce((best, word) => (word.length > best.length ? word : best), "");
  return { name: input.name, words: words.length, longest };
}

// gather gets the results in the order of the list, whoever was done first.
export function gather(input: { counts: Count[] }) {
  const words = input.counts.reduce((sum, c) => sum + c.words, 0);
  const longest = input.counts.reduce((best, c) => (c.longest.length > best.length ? c.longest : best), "");
  return { parts: input.counts.length, words, longest };
}
