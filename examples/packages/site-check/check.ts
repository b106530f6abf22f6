import { http, log, now } from "catena";

interface Input {
  url: string;
  maxMs?: number; // slower than this counts as a failure
}

interface Result {
  url: string;
  status: number;
  ms: number;
  characters: number;
}

// A page that cannot be reached throws; the task's retry tries again.
export async function main(input: Input): Promise<Result> {
  const began = now();
  const response = await http.get(input.url, { timeout: 5000 });
  const result = { url: input.url, status: response.status, ms: now() - began, characters: response.text.length };
  if (response.status !== 200) {
    throw new Error(`${input.url} answered with status ${response.status}`);
  }
  if (input.maxMs !== undefined && result.ms > input.maxMs) {
    throw new Error(`${input.url} took ${result.ms} ms, more than ${input.maxMs}`);
  }
  log.info(`${input.url} is up: ${result.characters} characters in ${result.ms} ms`);
  return result;
}
