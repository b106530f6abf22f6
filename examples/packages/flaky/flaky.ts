import { log } from "catena";

// ctx.run.attempt counts the attempts of the run, 1 for the first.
export async function main(input: { failures: number }, ctx: { run: { attempt: number } }) {
  if (ctx.run.attempt <= input.failures) {
    log.warn(`attempt ${ctx.run.attempt} fails on purpose`);
    throw new Error(`attempt ${ctx.run.attempt} of ${input.failures + 1} failed on purpose`);
  }
  return { attempt: ctx.run.attempt };
}
