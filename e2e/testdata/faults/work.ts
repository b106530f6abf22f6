import { http, now } from "catena";

interface Input {
  recorder: string;
  step: number;
  item?: string;
  ms?: number; // how long the step takes
  failures?: number; // attempts of the run that fail here
}

interface Context {
  run: { id: string; attempt: number };
}

// step tells the recorder that it began, before it does anything else.
export async function step(input: Input, ctx: Context) {
  const began = now();
  const { id: run, attempt } = ctx.run;
  await http.post(input.recorder, { json: { run, step: input.step, item: `${input.item ?? ""}`, attempt, began } });
  if (input.ms) {
    await new Promise((done) => setTimeout(done, input.ms));
  }
  if ((input.failures ?? 0) >= attempt) {
    throw new Error(`attempt ${attempt} fails on purpose`);
  }
  return { step: input.step };
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
