import { log } from "catena";

interface Ask {
  action: "iterate" | "record";
  limit: number;
  params: { letters: string[] };
  items: { key: string; attempt: number; state: string; outcome: { reason?: string } | null }[];
}

/**
 * Lists the letters of a source's params, each of them due once a minute, and has the ones run
 * again that could not be answered, up to three times.
 */
export function work(ask: Ask) {
  if (ask.action === "iterate") {
    const minute = new Date().toISOString().slice(0, 16);
    return {
      items: ask.params.letters.slice(0, ask.limit).map((letter) => ({ key: `${letter} ${minute}`, params: { letter } })),
    };
  }
  const again = ask.items.filter((item) => item.state === "failed" && item.attempt < 3);
  for (const item of ask.items) {
    log.info(`${item.key}, attempt ${item.attempt}: ${item.state} ${item.outcome?.reason ?? ""}`);
  }
  return { items: again.map((item) => ({ key: item.key, requeue: true, after: "2s" })) };
}
