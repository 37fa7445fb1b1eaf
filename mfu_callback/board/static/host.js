// What the tab hears from TensorBoard around it: that data were reloaded, and whether it is dark.

const POLL_MILLISECONDS = 30_000;

// TensorBoard's experimental channel to its plugins: JSON over a message port; whoever gets a message answers it.
function openChannel(onMessage) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    onMessage(message);
    if (!message.isReply) {
      port1.postMessage(JSON.stringify({ ...message, payload: null, error: null, isReply: true }));
    }
  };
  window.parent.postMessage('experimental.bootstrap', '*', [port2]);
  port1.postMessage(JSON.stringify({ type: 'experimental.GetRuns', id: 0, payload: null, error: null, isReply: false }));
}

// Calls back whenever TensorBoard has reloaded; where its channel does not answer, every half minute.
export function onReload(callback) {
  const poll = setInterval(() => document.hidden || callback(), POLL_MILLISECONDS);
  openChannel((message) => {
    clearInterval(poll);
    if (message.type === 'experimental.DataReloaded' && !message.isReply) callback();
  });
}

// Calls back with "dark" or "light", now and at every change: as TensorBoard's page is, else as the browser prefers.
export function onTheme(callback) {
  const preference = window.matchMedia('(prefers-color-scheme: dark)');
  const host = hostBody();
  const tell = () => callback((host ? host.classList.contains('dark-mode') : preference.matches) ? 'dark' : 'light');
  if (host) new MutationObserver(tell).observe(host, { attributes: true, attributeFilter: ['class'] });
  else preference.addEventListener('change', tell);
  tell();
}

function hostBody() {
  try {
    return window.parent === window ? null : window.parent.document.body;
  } catch {
    return null; // another origin
  }
}
