// Results as files.

const COLUMNS = ["id", "uri", "score", "page", "headings", "text", "stands_for", "metadata"];

export const toJson = (hits) => JSON.stringify(hits, null, 2) + "\n";

export function toCsv(hits) {
  const rows = hits.map((hit) => COLUMNS.map((column) => cell(hit[column])));
  return [COLUMNS, ...rows].map((row) => row.join(",")).join("\r\n") + "\r\n";
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  let text = typeof value === "object" ? JSON.stringify(value) : String(value);
  // A spreadsheet must not compute what looks like a formula: a quote makes it text.
  if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
