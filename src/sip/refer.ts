import type { CallEvent } from "../call/event.ts";
import type { LegId } from "../call/ids.ts";
import { answerChallenge } from "./hang-up.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { parseReason } from "./reason.ts";
import { SipFault } from "./link/fault.ts";
import type { IncomingRequest, Reply, SipDialog } from "./link/types.ts";

export interface ReferOrder {
  readonly leg: LegId;
  readonly dialog: SipDialog;
  /** Where the caller's side is asked to call. */
  readonly referTo: string;
  /** In whose name (RFC 3892). */
  readonly referredBy: string;
  /** How long a final response to the REFER may take. */
  readonly timeoutMs: number;
  /** What may answer a challenge that came in this response; null where it must not be answered. */
  readonly credentials: (challenge: Reply) => TrunkCredentials | null;
  readonly post: (event: CallEvent) => boolean;
}

/**
 * One REFER on the caller's dialog (RFC 3515): its response and the NOTIFYs of its implicit subscription become
 * `refer.progress` and exactly one `refer.done`. A 2xx alone is no success (bot-contract §6).
 */
export class ReferWatch {
  readonly #order: ReferOrder;
  #cseq: string | undefined;
  #open = true;

  constructor(order: ReferOrder) {
    this.#order = order;
    void this.#send();
  }

  /** True when the NOTIFY belongs to this REFER. */
  notified(request: IncomingRequest): boolean {
    const [event = "", ...params] = (request.header("event") ?? "").split(";").map((part) => part.trim());
    const id = params.find((entry) => entry.toLowerCase().startsWith("id="))?.slice(3);
    // RFC 3515 §2.4.6: the id is the CSeq number of the REFER; the first REFER of a dialog may go without.
    if (event.toLowerCase() !== "refer" || (id !== undefined && this.#cseq !== undefined && id !== this.#cseq)) {
      return false;
    }
    // The BYE that ends a transfer must not overtake the answer to this NOTIFY.
    queueMicrotask(() => {
      if (this.#open) {
        this.#read(request);
      }
    });
    return true;
  }

  /** The dialog is over or another REFER follows: nothing more is told. */
  close(): void {
    this.#open = false;
  }

  async #send(): Promise<void> {
    const { dialog, referTo, referredBy, timeoutMs, credentials } = this.#order;
    const headers = [
      { name: "Refer-To", value: `<${referTo}>` },
      { name: "Referred-By", value: `<${referredBy}>` },
    ];
    let result = await dialog.send("REFER", { timeoutMs, headers });
    if (!(result instanceof SipFault) && (result.status === 401 || result.status === 407) && this.#open) {
      // RFC 3261 §22.2: once more with credentials; the hash covers the remote target, which is the request line.
      const known = credentials(result);
      const request = { method: "REFER", uri: dialog.remoteUri };
      const answer = known === null ? undefined : answerChallenge(result, known, request);
      if (answer !== undefined) {
        result = await dialog.send("REFER", { timeoutMs, headers: [...headers, answer] });
      }
    }
    if (result instanceof SipFault) {
      // RFC 3261 §8.1.3.1: no answer in time counts as 408.
      this.#done(result.code === "timeout" ? 408 : null, result.message, null);
      return;
    }
    this.#cseq = /^(\d+)/.exec(result.header("cseq") ?? "")?.[1];
    if (result.status >= 300) {
      this.#done(result.status, result.reason, parseReason(result.headerLines("reason")).q850);
      return;
    }
    this.#progress(result.status);
  }

  /** RFC 3515 §2.4.5: the body of the NOTIFY is the start line of the response the referred call got. */
  #read(request: IncomingRequest): void {
    const line = /^SIP\/2\.0 ([1-6]\d\d)(?: ([^\r\n]{0,200}))?(?:\r?\n|$)/.exec(request.body);
    const status = line === null ? null : Number(line[1]);
    const terminated = /^\s*terminated\b/i.test(request.header("subscription-state") ?? "");
    if (status !== null && status >= 200) {
      this.#done(status, line?.[2] ?? null, null);
    } else if (terminated) {
      this.#done(null, "the subscription ended without a final result", null);
    } else {
      this.#progress(status ?? 100);
    }
  }

  #progress(status: number): void {
    if (this.#open) {
      this.#order.post({ type: "refer.progress", leg: this.#order.leg, status });
    }
  }

  #done(status: number | null, reason: string | null, q850: number | null): void {
    if (this.#open) {
      this.#open = false;
      this.#order.post({ type: "refer.done", leg: this.#order.leg, status, reason, q850, redirect: null });
    }
  }
}
