/** Redis Sentinels, which tell where the master is. */
export interface Sentinels {
  /** The master's name in their configuration. */
  readonly name: string;
  readonly nodes: readonly { readonly host: string; readonly port: number }[];
  /** Of the Sentinels themselves, where they ask for one. */
  readonly username?: string;
  readonly password?: string;
  /** They are spoken to over TLS. Default false. */
  readonly tls?: boolean;
}

/**
 * ioredis' options for them: they are asked at every connection. `retryMs` says how long after a round in which none could
 * tell, null to give up; `answerMs` is how long one may take.
 */
export function sentinelOptions(
  { name, nodes, username, password, tls = false }: Sentinels,
  { answerMs, retryMs }: { readonly answerMs: number; readonly retryMs: (times: number) => number | null },
) {
  return {
    name,
    sentinels: nodes.map((node) => ({ ...node })),
    ...(username === undefined ? {} : { sentinelUsername: username }),
    ...(password === undefined ? {} : { sentinelPassword: password }),
    ...(tls ? { sentinelTLS: {} } : {}),
    enableTLSForSentinelMode: true,
    sentinelCommandTimeout: answerMs,
    // An error would end the connection for good; without a Sentinel now there may be one later.
    sentinelRetryStrategy: retryMs,
    // A master that was cut off from the others looks well from here, and what it takes is lost.
    failoverDetector: true,
  };
}
