import type { Table } from "./machine.ts";

/** Non-INVITE client transaction: RFC 3261 §17.1.2 figure 6. */
export type ClientState = "initial" | "trying" | "proceeding" | "completed" | "terminated";

export type ClientEvent = "start" | "1xx" | "2xx" | "3xx-6xx" | "timer E" | "timer F" | "timer K" | "transport error";

export const clientTable: Table<ClientState, ClientEvent> = {
  initial: {
    start: { to: "trying", effects: ["start E", "start F", "send"] },
  },
  trying: {
    "timer E": { to: "trying", effects: ["start E", "send"] },
    "timer F": { to: "terminated", effects: ["reportTimeout"] },
    "transport error": { to: "terminated", effects: ["reportTransportError"] },
    "1xx": { to: "proceeding", effects: ["passUp"] },
    "2xx": { to: "completed", effects: ["stop E", "stop F", "start K", "passUp"] },
    "3xx-6xx": { to: "completed", effects: ["stop E", "stop F", "start K", "passUp"] },
  },
  proceeding: {
    "timer E": { to: "proceeding", effects: ["start E", "send"] },
    "timer F": { to: "terminated", effects: ["reportTimeout"] },
    "transport error": { to: "terminated", effects: ["reportTransportError"] },
    "1xx": { to: "proceeding", effects: ["passUp"] },
    "2xx": { to: "completed", effects: ["stop E", "stop F", "start K", "passUp"] },
    "3xx-6xx": { to: "completed", effects: ["stop E", "stop F", "start K", "passUp"] },
  },
  completed: {
    "timer K": { to: "terminated", effects: [] },
  },
  terminated: {},
};
