// orders stands in for a shop's export: the same seed gives the same orders.
export function orders(input: { count?: number; seed?: number }) {
  const regions = ["north", "south", "east", '"west, overseas"'];
  let state = input.seed ?? 1;
  const next = (below: number) => {
    state = (state * 48271) % 2147483647; // the minimal standard generator
    return state % below;
  };
  const lines = ["id,region,amount"];
  for (let i = 1; i <= (input.count ?? 100); i++) {
    lines.push(`${i},${regions[next(regions.length)]},${(next(50000) / 100).toFixed(2)}`);
  }
  return { csv: lines.join("\n") + "\n" };
}
