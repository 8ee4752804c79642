// Sets the chosen appearance before anything is drawn, so that no wrong colour flashes. A plain script: modules run too late.
try {
  const theme = JSON.parse(localStorage.getItem("omni.settings") || "{}").theme;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage may be switched off; the system's appearance is taken then.
}
