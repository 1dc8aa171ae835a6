// A picture to search by: dropped, pasted, chosen or named by its address.

const LARGE = 2 << 20; // bytes from which it is shrunk here: every page of results sends it again
const EDGE = 1024;

/** A picture of the user's: its bytes in base64, and how it looks, if the browser can tell. */
export async function taken(file) {
  if (!file.size) throw new Error("The file is empty.");
  const bitmap = await createImageBitmap(file).catch(() => null); // the server may know kinds that the browser does not
  const blob = bitmap && file.size > LARGE ? await shrunk(bitmap) : file;
  bitmap?.close();
  return { name: file.name || "picture", base64: await base64(blob), seen: bitmap ? URL.createObjectURL(blob) : null };
}

async function shrunk(bitmap) {
  const scale = Math.min(1, EDGE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

/** The picture, or the address of one, in what was dropped or pasted. */
export function within(transfer) {
  const files = [...(transfer?.files ?? [])];
  const file = files.find((one) => one.type.startsWith("image/") || /\.(hei[cf]|tiff?|avif)$/i.test(one.name)) ?? files[0];
  if (file) return { file };
  const url = (transfer?.getData("text/uri-list") ?? "").split("\n").find((line) => /^https?:\/\//i.test(line.trim()));
  return url ? { url: url.trim() } : null;
}

/** Watches the page for pictures that come by themselves. */
export function watch(veil, found) {
  let depth = 0; // dragging into a child tells of leaving its parent
  const over = (event) => {
    const kinds = [...(event.dataTransfer?.types ?? [])];
    return kinds.includes("Files") || kinds.includes("text/uri-list");
  };
  addEventListener("dragenter", (event) => {
    if (over(event)) veil.hidden = ++depth < 1;
  });
  addEventListener("dragleave", (event) => {
    if (over(event)) veil.hidden = (depth = Math.max(0, depth - 1)) < 1;
  });
  addEventListener("dragover", (event) => {
    if (over(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    depth = 0;
    veil.hidden = true;
    const got = within(event.dataTransfer);
    if (!got) return;
    event.preventDefault();
    found(got);
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return; // words are pasted where the cursor is
    event.preventDefault();
    found(within(event.clipboardData));
  });
}
