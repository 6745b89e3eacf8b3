import { createHash } from "node:crypto";

import { describe, expect, test } from "vitest";

import { authorization, chooseChallenge, digestResponse, parseAnswers } from "../../src/sip/digest.ts";
import { DigestGate } from "../../src/sip/digest-gate.ts";
import { growth, linear } from "../support/growth.ts";

describe("the response", () => {
  test("RFC 2617 §3.5", () => {
    const response = digestResponse({
      algorithm: "MD5",
      username: "Mufasa",
      realm: "testrealm@host.com",
      password: "Circle Of Life",
      method: "GET",
      uri: "/dir/index.html",
      nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093",
      qop: "auth",
      nc: "00000001",
      cnonce: "0a4f113b",
    });
    expect(response).toBe("6629fae49393a05397450978507c4ef1");
  });

  const rfc7616 = {
    username: "Mufasa",
    realm: "http-auth@example.org",
    password: "Circle of Life",
    method: "GET",
    uri: "/dir/index.html",
    nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    qop: "auth",
    nc: "00000001",
    cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
  } as const;

  test.each([
    ["MD5", "8ca523f5e9506fed4657c9700eebdbec"],
    ["SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"],
  ] as const)("RFC 7616 §3.9.1 %s", (algorithm, expected) => {
    expect(digestResponse({ ...rfc7616, algorithm })).toBe(expected);
  });

  test("RFC 7616 §3.9.2, SHA-512-256 and a name that is not ASCII: hashes as OpenSSL has them, as UTF-8", () => {
    const h = (text: string): string => createHash("sha512-256").update(text).digest("hex");
    const input = {
      algorithm: "SHA-512-256",
      username: "J\u00e4s\u00f8n Doe",
      realm: "api@example.org",
      password: "Secret, or not?",
      method: "GET",
      uri: "/doe.json",
      nonce: "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
      qop: "auth",
      nc: "00000001",
      cnonce: "NTg6RKcb9boFIAS3KrFK9BGeh+niz/sm",
    } as const;
    const ha1 = h(`${input.username}:${input.realm}:${input.password}`);
    expect(digestResponse(input)).toBe(
      h(`${ha1}:${input.nonce}:${input.nc}:${input.cnonce}:auth:${h("GET:/doe.json")}`),
    );
  });

  test("without qop the form of RFC 2069 §2.1.2", () => {
    const h = (text: string): string => createHash("md5").update(text).digest("hex");
    const response = digestResponse({ ...rfc7616, algorithm: "MD5", qop: null });
    expect(response).toBe(
      h(`${h("Mufasa:http-auth@example.org:Circle of Life")}:${rfc7616.nonce}:${h("GET:/dir/index.html")}`),
    );
  });
});

describe("which challenge is answered", () => {
  const line = (algorithm: string, more = ""): string =>
    `Digest realm="r", nonce="${algorithm}"${algorithm === "" ? "" : `, algorithm=${algorithm}`}, qop="auth"${more}`;

  test.each<[string, string[], string | undefined]>([
    ["the topmost that is known (RFC 8760 §2.4)", [line("SHA-256"), line("MD5")], "SHA-256"],
    ["also when it is the weaker one", [line("MD5"), line("SHA-256")], "MD5"],
    [
      "unknown algorithms and session variants are passed over",
      [line("SHA-1024"), line("MD5-sess"), line("SHA-512-256")],
      "SHA-512-256",
    ],
    ["MD5 when nothing is said", [line("")], "MD5"],
    [
      "lines that were joined by a comma are told apart",
      [`${line("SHA-9")}, ${line("SHA-256")}, ${line("MD5")}`],
      "SHA-256",
    ],
    ["another scheme between them does no harm", ['Basic realm="r"', `Bearer x="1", y=2, ${line("MD5")}`], "MD5"],
    ["auth-int alone is not answered", ['Digest realm="r", nonce="n", qop="auth-int"'], undefined],
    ["no nonce, no answer", ['Digest realm="r", qop="auth"'], undefined],
    ["nothing at all", [], undefined],
    ["garbage", ["Digest", "Digest ,,,=", '"', 'Digest realm="r', "\u0000"], undefined],
  ])("%s", (_name, lines, algorithm) => {
    expect(chooseChallenge(lines, null)?.algorithm).toBe(algorithm);
  });

  test("only of the realm that is ours, where one is set", () => {
    const lines = ['Digest realm="other", nonce="1"', 'Digest realm="mine", nonce="2"'];
    expect(chooseChallenge(lines, "mine")?.nonce).toBe("2");
    expect(chooseChallenge(lines, "none")).toBeUndefined();
    expect(chooseChallenge(lines, null)?.nonce).toBe("1");
  });

  test("qop among others, quoted or not, stale in any case, a field twice counts once", () => {
    expect(chooseChallenge(['DIGEST realm="r",nonce="a\\"b",qop=AUTH,stale=TRUE,nonce="x"'], null)).toEqual({
      realm: "r",
      nonce: 'a"b',
      opaque: null,
      algorithm: "MD5",
      qop: "auth",
      stale: true,
    });
  });

  test.each([" ", 'Digest a="', "Digest ,", "="])("a header of many %j is read in linear time", (part) => {
    const reading = (size: number) => {
      const text = part.repeat(size / part.length);
      return (): void => {
        chooseChallenge([text], null);
        parseAnswers([text]);
      };
    };
    expect(growth(reading, 50_000)).toBeLessThan(linear);
  });
});

describe("Authorization", () => {
  test("is written so that it is read back, with quotes and backslashes in names", () => {
    const challenge = chooseChallenge(
      ['Digest realm="a \\"r\\"", nonce="n\\\\1", opaque="o", algorithm=SHA-256, qop="auth"'],
      null,
    );
    if (challenge === undefined) {
      expect.unreachable();
      return;
    }
    const value = authorization(
      challenge,
      { username: 'us"er', password: "p" },
      { method: "INVITE", uri: "sip:1@2" },
      { nonceCount: 26, cnonce: "c" },
    );
    expect(value).toContain("qop=auth, nc=0000001a, cnonce=");
    expect(parseAnswers([value])).toEqual([
      {
        username: 'us"er',
        realm: 'a "r"',
        nonce: "n\\1",
        uri: "sip:1@2",
        response: digestResponse({
          ...challenge,
          username: 'us"er',
          password: "p",
          method: "INVITE",
          uri: "sip:1@2",
          nc: "0000001a",
          cnonce: "c",
        }),
        algorithm: "SHA-256",
        qop: "auth",
        nonceCount: 26,
        cnonce: "c",
      },
    ]);
  });

  test.each([
    ["nc without cnonce", 'username="u", realm="r", nonce="n", uri="x", response="0", qop=auth, nc=00000001'],
    ["a count that is none", 'username="u", realm="r", nonce="n", uri="x", response="0", qop=auth, nc=zz, cnonce="c"'],
    ["auth-int", 'username="u", realm="r", nonce="n", uri="x", response="0", qop=auth-int, nc=00000001, cnonce="c"'],
    ["an unknown algorithm", 'username="u", realm="r", nonce="n", uri="x", response="0", algorithm=SHA-1'],
    ["no user", 'realm="r", nonce="n", uri="x", response="0"'],
  ])("with %s counts as none", (_name, fields) => {
    expect(parseAnswers([`Digest ${fields}`])).toEqual([]);
  });
});

describe("the gate", () => {
  const users = [{ username: "ann", realm: "here", password: "pw" }];
  let time = 0;

  function gate(over = {}): DigestGate {
    time = 1000;
    return new DigestGate({ now: () => time, ...over });
  }

  function answer(value: string, over: { password?: string; nonceCount?: number } = {}): string {
    const challenge = chooseChallenge([value], null);
    if (challenge === undefined) {
      throw new Error("no challenge");
    }
    const { password = "pw", nonceCount = 1 } = over;
    return authorization(
      challenge,
      { username: "ann", password },
      { method: "INVITE", uri: "sip:x" },
      { nonceCount, cnonce: "c" },
    );
  }

  const check = (at: DigestGate, header: string, source = "192.0.2.1"): ReturnType<DigestGate["check"]> =>
    at.check({ headerLines: [header], method: "INVITE", source, users });

  test("a nonce is bound to the address it was given to and to its time", () => {
    const at = gate();
    const [challenge = ""] = at.challenges("here", "192.0.2.1", false);
    expect(check(at, answer(challenge), "192.0.2.2")).toEqual({ type: "challenge", stale: false });
    expect(check(at, answer(challenge))).toEqual({ type: "accepted", username: "ann" });
    time += 59_999;
    expect(check(at, answer(challenge, { nonceCount: 2 }))).toEqual({ type: "accepted", username: "ann" });
    time += 1;
    expect(check(at, answer(challenge, { nonceCount: 3 }))).toEqual({ type: "challenge", stale: true });
    expect(at.stats()).toEqual({ nonces: 0, failures: 0 });
  });

  test("a trunk may want one algorithm alone: only that is asked for, and no other is believed", () => {
    const at = gate();
    const strict = users.map((user) => ({ ...user, algorithms: ["SHA-256"] as const }));
    const old = users.map((user) => ({ ...user, username: "old", algorithms: ["MD5"] as const }));
    const asked = (some: typeof strict | typeof old): string[] =>
      at.challenges("here", "192.0.2.1", false, some).map((value) => /algorithm=([\w-]+)/.exec(value)?.[1] ?? "");
    expect([asked(strict), asked(old)]).toEqual([["SHA-256"], ["MD5"]]);
    const [sha = "", md5 = ""] = at.challenges("here", "192.0.2.1", false, [...strict, ...old]);
    const judge = (header: string): string =>
      at.check({ headerLines: [header], method: "INVITE", source: "192.0.2.1", users: [...strict, ...old] }).type;
    expect([judge(answer(sha)), judge(answer(md5))]).toEqual(["accepted", "challenge"]);
  });

  test("another gate's nonce, a method that was not hashed, another realm", () => {
    const at = gate();
    const [foreign = ""] = gate().challenges("here", "192.0.2.1", false);
    expect(check(at, answer(foreign))).toEqual({ type: "challenge", stale: false });
    const [challenge = ""] = at.challenges("here", "192.0.2.1", false);
    expect(at.check({ headerLines: [answer(challenge)], method: "BYE", source: "192.0.2.1", users }).type).toBe(
      "challenge",
    );
    const [other = ""] = at.challenges("elsewhere", "192.0.2.1", false);
    expect(check(at, answer(other))).toEqual({ type: "challenge", stale: false });
  });

  test("three wrong passwords ban an address for a quarter of an hour, another is not touched", () => {
    const at = gate();
    const wrong = (): ReturnType<DigestGate["check"]> => {
      const [challenge = ""] = at.challenges("here", "192.0.2.1", false);
      return check(at, answer(challenge, { password: "no" }));
    };
    expect([wrong(), wrong(), wrong()].map(({ type }) => type)).toEqual(["challenge", "challenge", "banned"]);
    expect(check(at, "")).toEqual({ type: "banned" });
    const [elsewhere = ""] = at.challenges("here", "192.0.2.9", false);
    expect(check(at, answer(elsewhere), "192.0.2.9").type).toBe("accepted");
    time += 15 * 60_000 + 1;
    const [again = ""] = at.challenges("here", "192.0.2.1", false);
    expect(check(at, answer(again)).type).toBe("accepted");
  });

  test("a wrong nonce bans nobody, so that a forged sender cannot lock a trunk out", () => {
    const at = gate();
    for (let attempt = 0; attempt < 10; attempt += 1) {
      check(at, 'Digest username="ann", realm="here", nonce="1.2.3", uri="sip:x", response="00"');
    }
    expect(at.stats().failures).toBe(0);
  });

  test("what is remembered has a limit", () => {
    const at = gate({ maxRemembered: 3 });
    for (let number = 0; number < 10; number += 1) {
      const source = `192.0.2.${number}`;
      const [challenge = ""] = at.challenges("here", source, false);
      check(at, answer(challenge), source);
      check(at, answer(challenge, { password: "no", nonceCount: 2 }), source);
    }
    expect(at.stats()).toEqual({ nonces: 3, failures: 3 });
  });
});
