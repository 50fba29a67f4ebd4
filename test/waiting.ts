/** Asks until there is an answer, which is anything but undefined and false, and returns it. */
export async function until<T>(
  ask: () => T | undefined | false | Promise<T | undefined | false>,
  what = String(ask),
  limitMs = 20_000,
): Promise<T> {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) throw new Error(`Not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Asks until the answer is wanted and returns it; fails with the last one. */
export async function eventually<T>(
  ask: () => Promise<T>,
  wanted: (value: T) => boolean,
  limitMs = 30_000,
): Promise<T> {
  let last: T | undefined;
  const isWanted = async () => {
    last = await ask();
    return wanted(last) && { value: last };
  };
  try {
    return (await until(isWanted, String(wanted), limitMs)).value;
  } catch (error) {
    throw new Error(`${error}; the last answer: ${JSON.stringify(last)}`);
  }
}
