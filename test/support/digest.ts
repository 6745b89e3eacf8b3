// Digest authentication (RFC 2617 with qop=auth, MD5) for both sides of it.
import { createHash } from "node:crypto";

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

const md5 = (text: string): string => createHash("md5").update(text).digest("hex");

const field = (value: string, name: string): string | undefined =>
  new RegExp(`(?:^|[\\s,])${name}\\s*=\\s*(?:"([^"]*)"|([^\\s,"]+))`, "i")
    .exec(value)
    ?.slice(1)
    .find((part) => part !== undefined);

function response(
  values: Readonly<Record<"realm" | "nonce" | "uri" | "nc" | "cnonce" | "qop", string>>,
  credentials: Credentials,
  method: string,
): string {
  const { realm, nonce, uri, nc, cnonce, qop } = values;
  const secret = md5(`${credentials.username}:${realm}:${credentials.password}`);
  const action = md5(`${method}:${uri}`);
  return md5(qop === "" ? `${secret}:${nonce}:${action}` : `${secret}:${nonce}:${nc}:${cnonce}:${qop}:${action}`);
}

/** The Authorization (or Proxy-Authorization) value that answers a challenge. */
export function answerChallenge(challenge: string, credentials: Credentials, method: string, uri: string): string {
  const values = {
    realm: field(challenge, "realm") ?? "",
    nonce: field(challenge, "nonce") ?? "",
    uri,
    nc: "00000001",
    cnonce: Math.random().toString(36).slice(2),
    qop: field(challenge, "qop") === undefined ? "" : "auth",
  };
  const parts = [
    `Digest username="${credentials.username}"`,
    `realm="${values.realm}"`,
    `nonce="${values.nonce}"`,
    `uri="${uri}"`,
    `response="${response(values, credentials, method)}"`,
    "algorithm=MD5",
  ];
  if (values.qop !== "") parts.push("qop=auth", `nc=${values.nc}`, `cnonce="${values.cnonce}"`);
  return parts.join(", ");
}

export const makeChallenge = (realm: string, nonce: string): string =>
  `Digest realm="${realm}", nonce="${nonce}", algorithm=MD5, qop="auth"`;

/** Whether an Authorization value proves knowledge of the password for this nonce. */
export function isAuthentic(authorization: string, credentials: Credentials, method: string, nonce: string): boolean {
  const get = (name: string): string => field(authorization, name) ?? "";
  const values = {
    realm: get("realm"),
    nonce: get("nonce"),
    uri: get("uri"),
    nc: get("nc"),
    cnonce: get("cnonce"),
    qop: get("qop"),
  };
  return (
    get("username") === credentials.username &&
    values.nonce === nonce &&
    get("response") === response(values, credentials, method)
  );
}
