// Ctrl-C as a promise, so that `await using` stops what was started.

/** Rejects with a sentence at the first signal. */
export function interruption(): Promise<never> {
  const interrupted = new Promise<never>((_resolve, reject) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      process.on(signal, () => reject(new Interrupted(signal)));
    }
  });
  // It may come when nobody waits for it any more.
  interrupted.catch(() => undefined);
  return interrupted;
}

export class Interrupted extends Error {
  constructor(signal: string) {
    super(`interrupted by ${signal}; what was started is stopped`);
    this.name = "Interrupted";
  }
}

/** Starts something; when a signal comes first, waits until it has started or failed, and stops it. */
export async function startUnless<T extends AsyncDisposable>(
  interrupted: Promise<never>,
  starting: Promise<T>,
): Promise<T> {
  try {
    return await Promise.race([starting, interrupted]);
  } catch (error) {
    await starting.then(
      (started) => started[Symbol.asyncDispose](),
      () => undefined,
    );
    throw error;
  }
}
