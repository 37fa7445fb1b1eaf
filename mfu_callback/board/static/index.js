// The tab "MFU" of TensorBoard: what it shows is fetched from the plugin's routes.
import { mount } from './page.js';
import { onReload, onTheme } from './host.js';

async function get(route, parameters = {}) {
  const response = await fetch(`${route}?${new URLSearchParams(parameters)}`);
  if (!response.ok) throw new Error(`${route}: ${response.status} ${response.statusText}`);
  return response.json();
}

const source = {
  runs: () => get('./runs'),
  curves: (tag) => get('./curves', { tag }),
  waterfall: (run) => get('./waterfall', { run }),
  details: (run) => get('./details', { run }),
};

function load(element, attributes) {
  return new Promise((resolve, reject) => {
    const node = Object.assign(document.createElement(element), attributes);
    node.addEventListener('load', resolve);
    node.addEventListener('error', () => reject(new Error(`${node.src || node.href} was not served`)));
    document.head.append(node);
  });
}

export async function render() {
  document.documentElement.lang = 'en';
  document.title = 'MFU';
  const files = [load('link', { rel: 'stylesheet', href: './style.css' }), load('script', { src: './plotly.js' })];
  const page = mount(document.body, source, Promise.allSettled(files));
  onTheme(page.theme);
  await page.reload();
  onReload(page.reload);
}
