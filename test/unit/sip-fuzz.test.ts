import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { chooseChallenge, parseAnswers } from "../../src/sip/digest.ts";
import { readKeyPress } from "../../src/sip/in-dialog.ts";
import { readHeaders } from "../../src/sip/message.ts";
import { parseReason } from "../../src/sip/reason.ts";
import {
  formatNameAddr,
  formatSipUri,
  parseNameAddr,
  parseSipUri,
  splitOutsideQuotes,
  userOf,
} from "../../src/sip/uri.ts";

// Pieces that matter to the parsers come often, everything else sometimes.
const piece = fc.oneof(
  fc.constantFrom(
    "sip:",
    "sips:",
    "tel:",
    "@",
    ";",
    ":",
    "<",
    ">",
    '"',
    "\\",
    ",",
    "=",
    "?",
    "[",
    "]",
    "::1",
    " ",
    "\t",
    "\r\n",
    "%0d",
    "%",
    "tag=",
    "Digest ",
    'realm="',
    "nonce=",
    "qop=auth",
    "cause=",
    "Q.850",
    "SIP",
    "constructor",
    "__proto__",
  ),
  fc.string({ maxLength: 8, unit: "binary" }),
);
const text = fc.array(piece, { maxLength: 24 }).map((pieces) => pieces.join(""));

describe("whatever a peer sends", () => {
  test("nothing that reads it throws", () => {
    fc.assert(
      fc.property(text, (value) => {
        parseSipUri(value);
        parseNameAddr(value);
        userOf(value);
        splitOutsideQuotes(value, ",");
        parseReason([value]);
        chooseChallenge([value], null);
        parseAnswers([value]);
        readHeaders(value).headerLines(value);
        readKeyPress("application/dtmf-relay", value);
      }),
      { numRuns: 5000 },
    );
  });

  test("a URI that was understood is written so that it is understood the same, on one line and without brackets", () => {
    fc.assert(
      fc.property(text, (value) => {
        const uri = parseSipUri(`sip:${value}`);
        if (uri !== undefined) {
          const written = formatSipUri(uri);
          expect(written).not.toMatch(/[\s<>"]/);
          expect(parseSipUri(written)).toEqual(uri);
        }
      }),
      { numRuns: 5000 },
    );
  });

  test("a display name comes back as it was, on one line", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", minLength: 1 }), (display) => {
        const written = formatNameAddr(display, "sip:a@b");
        expect(written).not.toMatch(/[\r\n\0\u2028\u2029]/);
        const parsed = parseNameAddr(written);
        expect(parsed?.uri).toBe("sip:a@b");
        expect(parsed?.display).toBe(display.replaceAll(/[\p{Cc}\u2028\u2029]/gu, " "));
      }),
      { numRuns: 2000 },
    );
  });
});
