/** Wide enough for the highest rate of the ladder times the 32 s that finished transactions stay. */
export const benchLimits = {
  dialogs: 200_000,
  pendingRequests: 100_000,
  outgoingRequests: 200_000,
  transactions: { client: 500_000, server: 500_000 },
} as const;
