import { parse } from "yaml";

import type { ConfigProblem } from "./problem.ts";
import { pathText } from "./problem.ts";
import { configSchema } from "./schema.ts";
import { isRecord, keysOf, kindOf, nearestName, plain, schemaAt } from "./schema-walk.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

const prefix = "PATCHBAY_";
const separator = "__";

/**
 * Puts `PATCHBAY_REDIS__URL=…` style variables into `raw`. Two underscores separate the parts of a path, a number is a
 * position in a list, and names compare without case and underscores. Variables without `__` are left alone: they are
 * free for secrets that the file names.
 */
export function applyOverrides(raw: Record<string, unknown>, env: Environment): readonly ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const names = Object.keys(env).filter((name) => name.startsWith(prefix) && name.includes(separator));
  // Sorted, so that list positions are filled from the front and the order of the environment does not matter.
  for (const name of names.sort()) {
    const value = env[name];
    if (value !== undefined) {
      const problem = applyOne(raw, name, value);
      if (problem !== undefined) {
        problems.push(problem);
      }
    }
  }
  return problems;
}

function applyOne(raw: Record<string, unknown>, variable: string, value: string): ConfigProblem | undefined {
  const path: (string | number)[] = [];
  let place: unknown = raw;
  for (const part of variable.slice(prefix.length).split(separator)) {
    const schema = schemaAt(configSchema, path, raw);
    if (schema !== undefined && kindOf(schema) === "array") {
      const length = Array.isArray(place) ? place.length : 0;
      if (!/^\d{1,4}$/.test(part) || Number(part) > length) {
        return refuse(
          variable,
          `${pathText(path)} is a list with ${length} entries: use a position from 0 to ${length}`,
        );
      }
      path.push(Number(part));
    } else {
      const known = schema === undefined ? [] : keysOf(schema);
      const key = known.find((name) => plain(name) === plain(part));
      if (key === undefined) {
        const near = nearestName(part, known);
        return refuse(
          variable,
          near === undefined
            ? `there is no field \`${part}\` in ${path.length === 0 ? "the configuration" : pathText(path)}: remove the variable`
            : `there is no field \`${part}\`: did you mean ${prefix}${[...path, near].map((step) => upper(String(step))).join(separator)}?`,
        );
      }
      path.push(key);
    }
    place = (place as Record<PropertyKey, unknown> | undefined)?.[path.at(-1) ?? ""];
  }
  set(raw, path, typedValue(path, raw, value));
  return undefined;
}

function refuse(variable: string, message: string): ConfigProblem {
  return { path: variable, message };
}

function upper(name: string): string {
  return name.replaceAll(/([a-z0-9])([A-Z])/g, "$1_$2").toUpperCase();
}

/** A text stays what it is, so that `0123` keeps its zero; everything else is read as YAML and judged by the schema. */
function typedValue(path: readonly (string | number)[], raw: unknown, value: string): unknown {
  const schema = schemaAt(configSchema, path, raw);
  const kind = schema === undefined ? undefined : kindOf(schema);
  if (kind === "number" || kind === "boolean" || kind === "array" || kind === "object") {
    try {
      return parse(value) as unknown;
    } catch {
      return value;
    }
  }
  return value;
}

function set(root: Record<string, unknown>, path: readonly (string | number)[], value: unknown): void {
  let place: Record<PropertyKey, unknown> = root;
  for (const [index, part] of path.entries()) {
    if (index === path.length - 1) {
      place[part] = value;
      return;
    }
    let next = place[part];
    if (!isRecord(next) && !Array.isArray(next)) {
      next = typeof path[index + 1] === "number" ? [] : {};
      place[part] = next;
    }
    place = next as Record<PropertyKey, unknown>;
  }
}
