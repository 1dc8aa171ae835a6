// Loaded before the styles, and so no module: a page should not flash light before it turns dark.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Where storage is forbidden, the system's preference applies.
  }
})();
