// docs/operations.md against the code: every warning and error of the log, every alert, every link.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";

const root = new URL("../../", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), "utf8");
const page = read("docs/operations.md");

interface LogLine {
  readonly place: string;
  readonly level: "warn" | "error";
  readonly text: string;
}

/** Lines whose text stands in a variable, by the place of their call. */
const spelledOut: Readonly<Record<string, string>> = {
  reason: "nothing comes from the caller any more",
};

/** The arguments of a call, whose opening parenthesis is before `from`, as texts. */
function argumentsFrom(source: string, from: number): readonly string[] {
  const found: string[] = [];
  let depth = 0;
  let start = from;
  for (let at = from; at < source.length; at += 1) {
    const char = source[at] ?? "";
    if (char === '"' || char === "'" || char === "`") {
      for (at += 1; source[at] !== char; at += 1) if (source[at] === "\\") at += 1;
    } else if ("({[".includes(char)) {
      depth += 1;
    } else if (")}]".includes(char)) {
      if (depth === 0) {
        found.push(source.slice(start, at));
        return found.map((text) => text.trim()).filter((text) => text !== "");
      }
      depth -= 1;
    } else if (char === "," && depth === 0) {
      found.push(source.slice(start, at));
      start = at + 1;
    }
  }
  throw new Error("a call without an end");
}

/** Texts that an argument may have: itself, or the branches of a condition. Nothing for the object of fields. */
function textsOf(argument: string): readonly string[] {
  if (argument.startsWith("{")) return [];
  const branches = /\?([\s\S]*):([\s\S]*)/.exec(argument);
  const parts = branches === null ? [argument] : [branches[1] ?? "", branches[2] ?? ""];
  return parts.flatMap((part) => {
    const literal = /^\s*(["'`])([\s\S]*)\1\s*$/.exec(part);
    return literal?.[2] === undefined ? (spelledOut[part.trim()] ?? []) : [literal[2]];
  });
}

function linesOf(place: string): readonly LogLine[] {
  const source = read(place);
  const calls = source.matchAll(/\blog(?:\.(warn|error)|\[([^\]]*"(?:warn|error)"[^\]]*)\])\(/g);
  return [...calls].flatMap((call): readonly LogLine[] => {
    const level = call[1] === "error" ? "error" : "warn";
    const texts = argumentsFrom(source, call.index + call[0].length).flatMap(textsOf);
    if (texts.length === 0) throw new Error(`${place}: no text in ${source.slice(call.index, call.index + 80)}`);
    // `log[bad ? "warn" : "info"](…, bad ? "first" : "second")`: only the text of the bad case is a warning.
    return (call[2] === undefined ? texts : texts.slice(0, 1)).map((text) => ({ place, level, text }));
  });
}

const written = readdirSync(new URL("src/", root), { recursive: true, encoding: "utf8" })
  .filter((place) => place.endsWith(".ts"))
  .flatMap((place) => linesOf(`src/${place}`));

describe("the log", () => {
  // The rows between the heading of the log and the next one of its rank.
  const part = /\n## The log\n([\s\S]*?)\n## /.exec(page)?.[1] ?? "";
  const rows = [...part.matchAll(/^\| (.+?) \| (warn|error) \| (.+) \|$/gm)].map(
    ([, text, level]) => `${level}: ${text}`,
  );
  const lines = [...new Set(written.map(({ level, text }) => `${level}: ${text}`))];

  test("every warning and every error of the code is in the table, with its level", () => {
    expect(lines.length).toBeGreaterThan(80);
    expect(lines.filter((line) => !rows.includes(line))).toEqual([]);
  });

  test("the table has no line that the code does not write, and none twice", () => {
    expect(rows.filter((row) => !lines.includes(row))).toEqual([]);
    expect(rows).toHaveLength(new Set(rows).size);
  });
});

describe("the alerts", () => {
  const { groups } = parse(read("docker/alerts.yml")) as {
    groups: { rules: { alert: string; annotations: { summary: string }; labels: { severity: string } }[] }[];
  };
  const rules = groups.flatMap((group) => group.rules);

  test("the page says what to do about each, and about no other", () => {
    const part = /\n### Alerts\n([\s\S]*?)\n## /.exec(page)?.[1] ?? "";
    const named = [...part.matchAll(/`(Patchbay\w+)`/g)].map(([, name]) => name ?? "");
    expect(new Set(named)).toEqual(new Set(rules.map(({ alert }) => alert)));
  });

  test("each has a severity and a sentence", () => {
    for (const { alert, labels, annotations } of rules) {
      expect(["critical", "warning"], alert).toContain(labels.severity);
      expect(annotations.summary, alert).toMatch(/\.$/);
    }
  });
});

test("every heading that the page links to is there", () => {
  const anchors = [...page.matchAll(/^#+ (.+)$/gm)].map(([, title]) =>
    (title ?? "")
      .toLowerCase()
      .replaceAll(/[^\w -]/g, "")
      .replaceAll(" ", "-"),
  );
  const wanted = [...page.matchAll(/\]\(#([\w-]+)\)/g)].map(([, anchor]) => anchor);
  expect(wanted.length).toBeGreaterThan(2);
  expect(wanted.filter((anchor) => !anchors.includes(anchor ?? ""))).toEqual([]);
});

test("the dashboard's data source is the one that is provisioned", () => {
  const { datasources } = parse(read("docker/grafana/provisioning/datasources/prometheus.yaml")) as {
    datasources: { uid: string }[];
  };
  const dashboard = read("docker/grafana/dashboards/patchbay.json");
  const used = new Set([...dashboard.matchAll(/"type": "prometheus",\s+"uid": "([^"]+)"/g)].map(([, uid]) => uid));
  expect([...used]).toEqual(datasources.map(({ uid }) => uid));
});
