import { log } from "catena";
import { parseCsv } from "./csv";

interface Order {
  id: string;
  region: string;
  cents: number; // whole cents, so that sums are exact
}

interface Region {
  region: string;
  orders: number;
  total: number;
  median: number;
}

// parse is the first step of the chain: text in, checked orders out.
export function parse(input: { csv: string }): { orders: Order[] } {
  const orders = parseCsv(input.csv).map((row) => {
    const amount = Number(row.amount);
    if (!Number.isFinite(amount) || amount < 0) {
      throw new Error(`order ${row.id}: "${row.amount}" is not an amount`);
    }
    return { id: row.id, region: row.region, cents: Math.round(amount * 100) };
  });
  return { orders };
}

// summarize is the second step: it gets what the first one committed.
export function summarize(input: { orders: Order[] }) {
  const byRegion = new Map<string, number[]>();
  for (const order of input.orders) {
    const amounts = byRegion.get(order.region) ?? [];
    amounts.push(order.cents);
    byRegion.set(order.region, amounts);
  }
  const regions = [...byRegion].map(([region, cents]) => summary(region, cents));
  regions.sort((a, b) => b.total - a.total);
  const total = input.orders.reduce((sum, order) => sum + order.cents, 0) / 100;
  for (const r of regions) {
    log.info(`${r.region}: ${r.orders} orders, ${r.total.toFixed(2)} in all, median ${r.median.toFixed(2)}`);
  }
  return { orders: input.orders.length, total, regions };
}

function summary(region: string, cents: number[]): Region {
  const sorted = [...cents].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return {
    region,
    orders: cents.length,
    total: cents.reduce((sum, c) => sum + c, 0) / 100,
    median: Math.round(median) / 100,
  };
}
