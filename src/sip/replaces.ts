// `Replaces` (RFC 3891): one dialog takes the place of another.

// RFC 3891 §6.1: a Call-ID, and a tag of either side.
const callIdText = /^[A-Za-z0-9\-.!%*_+`'~()<>:\\"/[\]?{}]{1,256}(?:@[A-Za-z0-9\-.!%*_+`'~()<>:\\"/[\]?{}]{1,256})?$/;
const tagText = /^[A-Za-z0-9\-.!%*_+`'~]{1,128}$/;

/** A dialog that a `Replaces` names, as the one sees it who gets the INVITE. */
export interface ReplacedDialog {
  readonly callId: string;
  /** The tag of the one who gets the INVITE. */
  readonly toTag: string;
  readonly fromTag: string;
  readonly earlyOnly: boolean;
}

/** Reads a `Replaces` (RFC 3891 §6.1); undefined when it is none. */
export function parseReplaces(text: string): ReplacedDialog | undefined {
  const [callId = "", ...params] = text.split(";").map((part) => part.trim());
  const one = (name: string): string | undefined => {
    const found = params.filter((param) => param.toLowerCase().startsWith(`${name}=`));
    const value = found.length === 1 ? found[0]?.slice(name.length + 1) : undefined;
    return value !== undefined && tagText.test(value) ? value : undefined;
  };
  const [toTag, fromTag] = [one("to-tag"), one("from-tag")];
  if (!callIdText.test(callId) || toTag === undefined || fromTag === undefined) return undefined;
  return { callId, toTag, fromTag, earlyOnly: params.some((param) => param.toLowerCase() === "early-only") };
}

export function formatReplaces({ callId, toTag, fromTag, earlyOnly }: ReplacedDialog): string {
  return `${callId};to-tag=${toTag};from-tag=${fromTag}${earlyOnly ? ";early-only" : ""}`;
}

/** What a Refer-To asks of the INVITE beyond whom to call. */
interface AskedReplaces {
  readonly dialog: ReplacedDialog;
  /** Who does not know Replaces must not ring beside the call he has (RFC 5589 §7.1). */
  readonly required: boolean;
}

/** The `Replaces` among the headers of a Refer-To's URI; undefined without one, null for one that cannot be read. */
export function replacesIn(headers: string): AskedReplaces | undefined | null {
  const [text, another] = valuesOf("replaces", headers);
  if (text === undefined) return undefined;
  const dialog = text === null || another !== undefined ? undefined : parseReplaces(text);
  if (dialog === undefined) return null;
  const tags = valuesOf("require", headers).flatMap((value) => value?.split(",") ?? []);
  return { dialog, required: tags.some((tag) => tag.trim().toLowerCase() === "replaces") };
}

/** The values of a header in a URI; null for one that cannot be read. */
function valuesOf(name: string, headers: string): readonly (string | null)[] {
  const found = headers.split("&").filter((part) => part.toLowerCase().startsWith(`${name}=`));
  return found.map((part) => {
    try {
      // RFC 3261 §19.1.1: a value is escaped, because `;` and `=` mean something in a URI.
      return decodeURIComponent(part.slice(name.length + 1));
    } catch {
      return null;
    }
  });
}
