// Draws a call as a ladder: one column per party, one row per message, arrows between the columns.

export const parties = ["caller", "Patchbay", "operator", "bot"] as const;
export type Party = (typeof parties)[number];

/** How a row is coloured on a terminal. */
export type Tint = "sip" | "media" | "event" | "command" | "good" | "bad" | "plain";

export interface Arrow {
  readonly type: "arrow";
  readonly from: Party;
  readonly to: Party;
  readonly label: string;
  readonly tint: Tint;
}
export interface Note {
  readonly type: "note";
  readonly text: string;
  readonly tint: Tint;
}
export type Row = Arrow | Note;

/** Where each party's line stands, counted from 0; the row ends before column 100. */
const columnOf: Readonly<Record<Party, number>> = { caller: 10, Patchbay: 33, operator: 56, bot: 96 };
const widthMax = 100;
const timeWidth = 7;
/** Notes begin here, between the caller's line and the next. */
const noteColumn = columnOf.caller + 2;

const colours: Readonly<Record<Tint, string>> = {
  sip: "\u001b[33m",
  media: "\u001b[90m",
  event: "\u001b[36m",
  command: "\u001b[35m",
  good: "\u001b[32m",
  bad: "\u001b[31m",
  plain: "",
};
const colourEnd = "\u001b[0m";

/** Text in the colour of its tint, or as it is when colours are off. */
export function tinted(text: string, tint: Tint, colour: boolean): string {
  return colour && colours[tint] !== "" ? `${colours[tint]}${text}${colourEnd}` : text;
}

const segmenter = new Intl.Segmenter();

/** What takes one place on a terminal each. */
function characters(text: string): readonly string[] {
  return Array.from(segmenter.segment(text), ({ segment }) => segment);
}

/** Cuts a text to a number of characters and shows that it did. */
export function shortened(text: string, most: number): string {
  const all = characters(text);
  return all.length <= most ? text : `${all.slice(0, Math.max(0, most - 1)).join("")}…`;
}

interface Cell {
  readonly text: string;
  readonly tint: Tint;
}

function lifelines(): Cell[] {
  const cells = Array.from({ length: widthMax }, (): Cell => ({ text: " ", tint: "plain" }));
  for (const party of parties) cells[columnOf[party]] = { text: "│", tint: "plain" };
  return cells;
}

function put(cells: Cell[], at: number, text: string, tint: Tint): void {
  for (const [index, character] of characters(text).entries()) cells[at + index] = { text: character, tint };
}

/** Runs of one colour become one coloured piece, so that a line is not mostly escape sequences. */
function joined(cells: readonly Cell[], colour: boolean): string {
  const end = cells.findLastIndex((cell) => cell.text !== " ") + 1;
  let line = "";
  for (let from = 0; from < end;) {
    const tint = cells[from]?.tint ?? "plain";
    let to = from;
    while (to < end && cells[to]?.tint === tint) to += 1;
    const text = cells
      .slice(from, to)
      .map((cell) => cell.text)
      .join("");
    line += tinted(text, tint, colour);
    from = to;
  }
  return line;
}

/** The names of the parties over their lines. */
export function drawHeading(): string {
  const cells = Array.from({ length: widthMax }, (): Cell => ({ text: " ", tint: "plain" }));
  put(cells, 1, "time", "plain");
  for (const party of parties) put(cells, columnOf[party] - Math.floor(party.length / 2), party, "plain");
  return joined(cells, false);
}

function drawArrow(cells: Cell[], { from, to, label, tint }: Arrow): void {
  const toRight = columnOf[to] > columnOf[from];
  const left = Math.min(columnOf[from], columnOf[to]);
  const inside = Math.abs(columnOf[to] - columnOf[from]) - 1;
  const name = ` ${shortened(label, inside - 4)} `;
  const dashes = Math.max(0, inside - 1 - characters(name).length);
  const before = Math.min(1, dashes);
  const shaft = `${"─".repeat(before)}${name}${"─".repeat(dashes - before)}`;
  put(cells, left + 1, toRight ? `${shaft}>` : `<${shaft}`, tint);
}

function clockText(atMs: number): string {
  return (Math.max(0, atMs) / 1_000).toFixed(3).padStart(timeWidth);
}

/** One row: the time in seconds, the parties' lines, and the arrow or the note. At most 100 columns wide. */
export function drawRow(atMs: number, row: Row, colour: boolean): string {
  const cells = lifelines();
  put(cells, 0, clockText(atMs), "plain");
  if (row.type === "arrow") drawArrow(cells, row);
  else put(cells, noteColumn, ` ${shortened(row.text, widthMax - noteColumn - 2)} `, row.tint);
  return joined(cells, colour);
}
