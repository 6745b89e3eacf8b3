import type { Table } from "./machine.ts";

/** INVITE client transaction: RFC 3261 §17.1.1 figure 5, with the Accepted state of RFC 6026 §7.2 figure 8. */
export type InviteClientState = "initial" | "calling" | "proceeding" | "completed" | "accepted" | "terminated";

export type InviteClientEvent =
  | "start"
  | "1xx"
  | "2xx"
  | "3xx-6xx"
  | "timer A"
  | "timer B"
  | "timer D"
  | "timer M"
  | "transport error";

export const inviteClientTable: Table<InviteClientState, InviteClientEvent> = {
  initial: {
    start: { to: "calling", effects: ["start A", "start B", "send"] },
  },
  calling: {
    "timer A": { to: "calling", effects: ["start A", "send"] },
    "timer B": { to: "terminated", effects: ["reportTimeout"] },
    "transport error": { to: "terminated", effects: ["reportTransportError"] },
    "1xx": { to: "proceeding", effects: ["stop A", "stop B", "passUp"] },
    "2xx": { to: "accepted", effects: ["stop A", "stop B", "start M", "passUp"] },
    "3xx-6xx": { to: "completed", effects: ["stop A", "stop B", "start D", "sendAck", "passUp"] },
  },
  proceeding: {
    "1xx": { to: "proceeding", effects: ["passUp"] },
    "2xx": { to: "accepted", effects: ["start M", "passUp"] },
    "3xx-6xx": { to: "completed", effects: ["start D", "sendAck", "passUp"] },
  },
  completed: {
    // Every retransmission of the final response is acknowledged again, and not passed up.
    "3xx-6xx": { to: "completed", effects: ["sendAck"] },
    "2xx": { to: "completed", effects: ["passUpStray"] },
    "transport error": { to: "terminated", effects: ["reportTransportError"] },
    "timer D": { to: "terminated", effects: [] },
  },
  accepted: {
    // RFC 6026 §7.2: retransmitted and forked 2xx all go up; the user agent acknowledges them.
    "2xx": { to: "accepted", effects: ["passUp"] },
    "timer M": { to: "terminated", effects: [] },
  },
  terminated: {},
};
