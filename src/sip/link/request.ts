import type { HeaderLine } from "../message.ts";
import { readHeaders } from "../message.ts";
import { faultOf, guard, SipFault } from "./fault.ts";
import { headerRecord, replyOf } from "./raw.ts";
import type { RawResponse, RawSrf } from "./raw.ts";
import type { LinkContext, Reply } from "./types.ts";

export interface OutsideRequest {
  readonly method: "OPTIONS" | "REGISTER";
  readonly uri: string;
  /** Next hop when it is not the URI's own host. */
  readonly proxy: string | null;
  readonly headers: readonly HeaderLine[];
}

/** The response, and our Contact as the engine has sent it. */
export interface OutsideReply {
  readonly reply: Reply;
  readonly contact: string | undefined;
}

/** Sends a request outside of any dialog. Resolves always: with the final response, or with why there is none. */
export async function sendOutside(
  srf: RawSrf,
  { method, uri, proxy, headers }: OutsideRequest,
  { clock, log, replyTimeoutMs }: LinkContext,
  track: (request: { lost(): void }) => () => void,
): Promise<OutsideReply | SipFault> {
  return new Promise((resolve) => {
    const finish = (result: OutsideReply | SipFault): void => {
      deadline.cancel();
      untrack();
      resolve(result);
    };
    const deadline = clock.after(replyTimeoutMs, () => {
      finish(new SipFault("timeout", `no response to ${method} within ${replyTimeoutMs} ms`));
    });
    const untrack = track({
      lost: () => {
        finish(new SipFault("engine_away", "the connection to the signalling engine was lost"));
      },
    });
    try {
      const options = { method, headers: headerRecord(headers), ...(proxy === null ? {} : { proxy }) };
      srf.request(uri, options, (error, request) => {
        guard(log, () => {
          if (request === undefined) {
            finish(faultOf(error));
            return;
          }
          const contact = readHeaders(request.msg.raw ?? "").header("contact");
          request.on("response", (response: RawResponse) => {
            guard(log, () => {
              if (response.status >= 200) {
                finish({ reply: replyOf(response), contact });
              }
            });
          });
        });
      });
    } catch (error) {
      finish(faultOf(error));
    }
  });
}
