import { describe, expect, it } from "vitest";

import { canonicalAddress } from "../../src/engine/transport/sources.ts";
import { namesDomain } from "../../src/engine/transport/tls.ts";

describe("the SIP domain of a certificate (RFC 5922)", () => {
  const cases: readonly [names: string | undefined, domain: string, good: boolean][] = [
    ["DNS:example.org", "example.org", true],
    ["DNS:EXAMPLE.org", "example.ORG.", true],
    ["DNS:a.example.org, DNS:example.org", "example.org", true],
    // §7.2: as a whole, no wildcards, no suffixes.
    ["DNS:*.example.org", "sip.example.org", false],
    ["DNS:example.org", "sip.example.org", false],
    ["DNS:sip.example.org", "example.org", false],
    ["URI:sip:example.org", "example.org", true],
    ["URI:SIP:example.org:5061;transport=tls", "example.org", true],
    // §7.1: other schemes and URIs with a user are no domain.
    ["URI:sips:example.org", "example.org", false],
    ["URI:https://example.org", "example.org", false],
    ["URI:sip:bob@example.org", "example.org", false],
    // §7.1: DNS names count only without a SIP URI.
    ["URI:sip:example.org, DNS:other.org", "other.org", false],
    ["URI:sip:bob@example.org, DNS:other.org", "other.org", true],
    // A comma inside a value is no end of it: Node quotes such values.
    ['DNS:"x, DNS:example.org"', "example.org", false],
    ['DNS:"x\\", DNS:example.org"', "example.org", false],
    ["IP Address:192.0.2.1", "192.0.2.1", true],
    ["IP Address:192.0.2.1", "192.0.2.2", false],
    ["DNS:192.0.2.1", "192.0.2.1", false],
    ["IP Address:2001:DB8:0:0:0:0:0:1", "2001:db8::1", true],
    ["email:a@example.org", "example.org", false],
    ["", "example.org", false],
  ];

  it.each(cases)("%s for %s: %s", (subjectaltname, domain, good) => {
    expect(namesDomain({ subjectaltname, subject: {} }, domain)).toBe(good);
  });

  it("the common name counts only where there are no alternative names", () => {
    const subject = { CN: "example.org" };
    expect(namesDomain({ subject }, "example.org")).toBe(true);
    expect(namesDomain({ subject: { CN: ["x", "example.org"] } }, "example.org")).toBe(true);
    expect(namesDomain({ subject, subjectaltname: "DNS:other.org" }, "example.org")).toBe(false);
    expect(namesDomain({}, "example.org")).toBe(false);
    expect(namesDomain({ subject: { CN: "192.0.2.1" } }, "192.0.2.1")).toBe(false);
  });
});

it("an address has one spelling", () => {
  expect(canonicalAddress("0:0:0:0:0:0:0:1")).toBe("::1");
  expect(canonicalAddress("2001:DB8::0:1")).toBe("2001:db8::1");
  expect(canonicalAddress("fe80::1%eth0")).toBe("fe80::1%eth0");
  expect(canonicalAddress("192.0.2.1")).toBe("192.0.2.1");
  expect(canonicalAddress("example.org")).toBe("example.org");
});
