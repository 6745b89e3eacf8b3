import type { Table } from "./machine.ts";

/** Non-INVITE server transaction: RFC 3261 §17.2.2 figure 8. */
export type ServerState = "trying" | "proceeding" | "completed" | "terminated";

export type ServerEvent = "request" | "answer 1xx" | "answer 2xx" | "answer 3xx-6xx" | "timer J" | "transport error";

export const serverTable: Table<ServerState, ServerEvent> = {
  trying: {
    request: { to: "trying", effects: [] },
    "answer 1xx": { to: "proceeding", effects: ["send"] },
    "answer 2xx": { to: "completed", effects: ["start J", "send"] },
    "answer 3xx-6xx": { to: "completed", effects: ["start J", "send"] },
  },
  proceeding: {
    request: { to: "proceeding", effects: ["send"] },
    "answer 1xx": { to: "proceeding", effects: ["send"] },
    "answer 2xx": { to: "completed", effects: ["start J", "send"] },
    "answer 3xx-6xx": { to: "completed", effects: ["start J", "send"] },
    "transport error": { to: "terminated", effects: ["reportTransportError"] },
  },
  completed: {
    request: { to: "completed", effects: ["send"] },
    "timer J": { to: "terminated", effects: [] },
    "transport error": { to: "terminated", effects: ["reportTransportError"] },
  },
  terminated: {},
};
