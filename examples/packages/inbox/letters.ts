/** Answers a letter; one from nobody cannot be answered. */
export function answer(input: { letter: string }) {
  if (input.letter === "nobody") {
    return { success: false, reason: "who wrote this?" };
  }
  return `Dear ${input.letter}, thank you for your letter.`;
}
