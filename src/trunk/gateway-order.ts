export interface Ranked {
  /** Lower ones first. */
  readonly priority: number;
  /** Share of the calls among those of the same priority. */
  readonly weight: number;
}

/**
 * The order in which gateways are tried: by priority, and within one by the weighted draw of RFC 2782 ("Usage rules").
 * `random` gives numbers from 0 to below 1.
 */
export function drawnOrder<T extends Ranked>(gateways: readonly T[], random: () => number): readonly T[] {
  const priorities = [...new Set(gateways.map(({ priority }) => priority))].toSorted((a, b) => a - b);
  return priorities.flatMap((wanted) =>
    draw(
      gateways.filter(({ priority }) => priority === wanted),
      random,
    ),
  );
}

function draw<T extends Ranked>(group: readonly T[], random: () => number): readonly T[] {
  if (group.length < 2) return group;
  // RFC 2782: those of weight 0 stand first, so that they are drawn only by a number of exactly 0.
  const left = group.toSorted((a, b) => Number(a.weight > 0) - Number(b.weight > 0));
  const drawn: T[] = [];
  while (left.length > 0) {
    const total = left.reduce((sum, { weight }) => sum + weight, 0);
    const mark = Math.floor(random() * (total + 1));
    let sum = 0;
    const at = left.findIndex(({ weight }) => (sum += weight) >= mark);
    drawn.push(...left.splice(Math.max(0, at), 1));
  }
  return drawn;
}
