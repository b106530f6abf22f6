import { http, log, now, sleep } from "catena";

interface Input {
  recorder: string;
  step: number;
  item?: string;
  ms?: number; // how long the step takes
  source?: string; // the scheduled task
  due?: string; // the due time that fired its run
  failures?: number; // attempts of the run that fail here
}

interface Context {
  run: { id: string; attempt: number };
}

// step tells the recorder that it began, before it does anything else. The mark
// is the recorder's: it tells whose outcome was committed.
export async function step(input: Input, ctx: Context) {
  const began = now();
  const { id: run, attempt } = ctx.run;
  const { source, due } = input;
  const told = await http.post(input.recorder, { json: { run, step: input.step, item: `${input.item ?? ""}`, attempt, began, source, due } });
  if (input.ms) {
    await new Promise((done) => setTimeout(done, input.ms));
  }
  if ((input.failures ?? 0) >= attempt) {
    throw new Error(`attempt ${attempt} fails on purpose`);
  }
  return { step: input.step, mark: told.json().mark };
}

// twice tells the recorder of two host calls of one step.
export async function twice(input: Input, ctx: Context) {
  await step(input, ctx);
  return step({ ...input, step: input.step + 1, ms: 0 }, ctx);
}

// hold keeps memory for a while.
export async function hold(input: { megabytes: number; ms: number }) {
  const held: string[] = [];
  for (let i = 0; i < input.megabytes; i++) {
    held.push("x".repeat(1 << 20) + i);
  }
  await new Promise((done) => setTimeout(done, input.ms));
  return { held: held.length };
}

// stubborn tells the recorder and goes on until it is stopped, each in its way:
// it obeys the signal, spins, or sits in a native operation that no interrupt reaches.
export async function stubborn(input: Input & { how: string }, ctx: Context & { signal: unknown }) {
  await step({ ...input, step: 0 }, ctx);
  switch (input.how) {
    case "obeys":
      await sleep(3_600_000, { signal: ctx.signal });
      break;
    case "spins":
      for (;;);
    case "hangs":
      return /^(?=a)(a+)+\1$/.test("a".repeat(60) + "b");
  }
}

// bomb takes ever more memory, endless never stops by itself, and talkative
// never stops to write into its log.
export async function bomb() {
  const held: string[] = [];
  for (;;) {
    held.push("x".repeat(1 << 20) + held.length);
    if (held.length % 16 === 0) {
      await sleep(10);
    }
  }
}

export async function endless() {
  for (;;);
}

export async function talkative() {
  for (let i = 0; ; i++) {
    log.info(`line ${i} `.padEnd(1000, "."));
  }
}

// gulp takes memory in one native operation that no interrupt reaches: it
// touches the megabytes, or only asks for them.
export async function gulp(input: Input & { megabytes: number; touch: boolean }, ctx: Context) {
  await step(input, ctx);
  const held = new Uint8Array(input.megabytes * 1048576);
  if (input.touch) {
    held.fill(1);
  }
  return { held: held.length };
}
