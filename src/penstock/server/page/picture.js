// Pictures to search by: dropped, pasted or chosen as a file.

const MAX_BYTES = 2 << 20; // larger files are shrunk here: every page of results sends the picture again
const MAX_EDGE = 1024;

/** Read a picture of the user's: its bytes in base64, and a preview, if the browser can decode it. */
export async function readPicture(file) {
  if (!file.size) throw new Error("The file is empty.");
  const bitmap = await createImageBitmap(file).catch(() => null); // the server may know formats that the browser does not
  const blob = bitmap && file.size > MAX_BYTES ? await shrink(bitmap) : file;
  bitmap?.close();
  return { name: file.name || "picture", base64: await base64(blob), preview: bitmap ? URL.createObjectURL(blob) : null };
}

async function shrink(bitmap) {
  const scale = Math.min(1, MAX_EDGE / Math.max(bitmap.width, bitmap.height));
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
function pictureIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  const file = files.find((one) => one.type.startsWith("image/") || /\.(hei[cf]|tiff?|avif)$/i.test(one.name)) ?? files[0];
  if (file) return { file };
  const url = (transfer?.getData("text/uri-list") ?? "").split("\n").find((line) => /^https?:\/\//i.test(line.trim()));
  return url ? { url: url.trim() } : null;
}

/** Call `onPicture` with pictures that are dropped or pasted; `overlay` is shown while one is dragged. */
export function watchForPictures(overlay, onPicture) {
  let depth = 0; // dragging into a child element fires dragleave of its parent
  const isPicture = (event) => {
    const kinds = [...(event.dataTransfer?.types ?? [])];
    return kinds.includes("Files") || kinds.includes("text/uri-list");
  };
  addEventListener("dragenter", (event) => {
    if (isPicture(event)) overlay.hidden = ++depth < 1;
  });
  addEventListener("dragleave", (event) => {
    if (isPicture(event)) overlay.hidden = (depth = Math.max(0, depth - 1)) < 1;
  });
  addEventListener("dragover", (event) => {
    if (isPicture(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    depth = 0;
    overlay.hidden = true;
    const picture = pictureIn(event.dataTransfer);
    if (!picture) return;
    event.preventDefault();
    onPicture(picture);
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return; // text is pasted where the cursor is
    event.preventDefault();
    onPicture(pictureIn(event.clipboardData));
  });
}
