// No module, and loaded before the styles: a page that turns dark after it was light hurts the eyes.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden; then the system's preference stands.
  }
})();
