// The page: a table of runs and the charts of them; where its data come from is the caller's.
import { AXES, colorOf, curvesChart, finderChart, kernelsChart, lastWaterfallChart, modulesChart, rooflineChart, SUMS, waterfallChart } from './charts.js';
import { factsList, OPERATOR_COLUMNS, operatorsTable, partsTable } from './details.js';
import { devicesChart } from './devices.js';
import { element } from './format.js';
import { nextOrder } from './sortable.js';
import { RUN_COLUMNS, runsTable } from './table.js';

const MFU = 'throughput/mfu';
const TOKENS = 'throughput/tokens_per_sec';
const NO_WATERFALL = { steps: [], wall_times: [], parts: {} };
const NO_DETAILS = { devices: null, operators: null, number_of: {}, kernels: null, waterfall: null, pace: null, slowest: null, facts: [] };
const EMPTY = 'No run here has logged MFU: add MFUCallback() to the callbacks of your Trainer.';
const NO_PLOTLY = "The charts need plotly, which is not installed here: pip install plotly";
// Plotly's other buttons include one that hands the chart to a server.
const CONFIG = { displaylogo: false, responsive: true, modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'autoScale2d', 'resetScale2d']] };
const BY_MFU = { column: RUN_COLUMNS.findIndex(({ title }) => title === 'MFU'), descending: true };
const BY_TIME = { column: OPERATOR_COLUMNS.findIndex(({ title }) => title === 'time'), descending: true };
const SHORTEST_RELOAD = 200; // milliseconds between two drawings while a slider moves

// source: {runs(), curves(tag), waterfall(run), details(run)}, each a promise of plain data; files: a promise to wait for before drawing.
export function mount(root, source, files) {
  return new Page(root, source, files).handles();
}

class Page {
  constructor(root, source, files) {
    this.source = source;
    this.files = files;
    this.state = { axis: 'step', smoothing: 0, order: BY_MFU, operatorOrder: BY_TIME, selected: null, hidden: new Set() };
    this.data = { runs: [], curves: {}, waterfall: NO_WATERFALL, details: NO_DETAILS, parts: { waterfall: [], kernels: [], phases: [] } };
    this.indices = new Map(); // a run keeps its color while the page is open
    this.build(root);
  }

  handles() {
    return {
      reload: () => this.reload(),
      theme: (theme) => {
        document.documentElement.dataset.theme = theme;
        this.draw();
      },
    };
  }

  build(root) {
    this.status = element('p', { role: 'status', class: 'muted' }, 'Loading …');
    this.empty = element('p', { class: 'panel', id: 'empty', hidden: true }, EMPTY);
    this.problems = element('ul', { class: 'warning', 'aria-label': 'Problems' });
    this.notes = element('div', { id: 'notes' });
    this.table = region('runs', 'Runs');
    this.figures = new Map();
    this.selectedTitle = element('h2', {}, '');
    this.advice = element('p', { id: 'advice' });
    this.pace = element('p', { id: 'pace' });
    this.sections = new Map();
    this.content = element(
      'main',
      { hidden: true },
      this.controls(),
      this.table,
      element('div', { class: 'grid' }, this.figure('mfu', 'MFU'), this.figure('tokens', 'tokens/s')),
      this.selectedTitle,
      this.advice,
      element('div', { class: 'grid' }, this.figure('waterfall', 'Where the machine went'), this.figure('last', 'Where it went at the last step')),
      this.section('parts', 'Where it went in the whole run, and what to do'),
      this.figure('devices', 'The devices, and which of them the others wait for', this.pace),
      this.section('operators', 'Operators of a batch'),
      this.section('facts', 'Memory and clocks'),
      element(
        'div',
        { class: 'grid' },
        this.figure('kernels', 'Kernels, opened'),
        this.figure('modules', 'FLOPs by module'),
        this.figure('finder', 'Batch size finder'),
        this.figure('roofline', 'Roofline, of all runs'),
      ),
    );
    root.append(element('h1', {}, 'MFU'), this.status, this.notes, this.problems, this.empty, this.content);
  }

  controls() {
    const axis = element(
      'select',
      { id: 'axis', onchange: (event) => this.set({ axis: event.target.value }) },
      ...Object.entries(AXES).map(([value, [name]]) => element('option', { value }, name)),
    );
    const smoothing = element('input', {
      id: 'smoothing',
      type: 'range',
      min: 0,
      max: 0.99,
      step: 0.01,
      value: 0,
      oninput: (event) => this.set({ smoothing: Number(event.target.value) }),
    });
    return element(
      'div',
      { class: 'controls' },
      element('label', {}, 'horizontal axis', axis),
      element('label', {}, 'smoothing', smoothing),
    );
  }

  // A part of the page with a table, hidden while there is nothing in it.
  section(id, title) {
    const body = region(id, title);
    const text = element('p', { class: 'muted' });
    const whole = element('section', { id: `${id}-section`, hidden: true }, element('h2', {}, title), text, body);
    this.sections.set(id, { whole, body, text });
    return whole;
  }

  // above: what stands between the title and the chart.
  figure(id, title, above = null) {
    const plot = element('div', { class: 'plot', role: 'img', 'aria-labelledby': `${id}-title`, 'aria-describedby': `${id}-text` });
    const text = element('p', { class: 'muted', id: `${id}-text` });
    const figure = element('figure', { class: 'panel', id, style: 'margin:0 0 16px' }, element('h2', { id: `${id}-title` }, title), above, plot, text);
    this.figures.set(id, { figure, plot, text });
    return figure;
  }

  set(changes) {
    Object.assign(this.state, changes);
    clearTimeout(this.redraw);
    this.redraw = setTimeout(() => this.draw(), changes.smoothing === undefined ? 0 : SHORTEST_RELOAD);
  }

  async reload() {
    try {
      const tags = [MFU, TOKENS, ...SUMS];
      const [{ runs, problems, parts, notes = [] }, ...curves] = await Promise.all([this.source.runs(), ...tags.map((tag) => this.source.curves(tag))]);
      for (const { name } of runs) if (!this.indices.has(name)) this.indices.set(name, this.indices.size);
      this.data.runs = runs.map((run) => ({ ...run, index: this.indices.get(run.name), color: colorOf(this.indices.get(run.name)) }));
      this.data.parts = parts;
      this.data.curves = Object.fromEntries(tags.map((tag, index) => [tag, curves[index]]));
      this.problems.replaceChildren(...problems.map((problem) => element('li', {}, problem)));
      this.notes.replaceChildren(...notes.map((note) => element('p', {}, note)));
      this.empty.hidden = runs.length > 0;
      this.content.hidden = runs.length === 0;
      if (!runs.some(({ name }) => name === this.state.selected)) this.state.selected = this.first();
      await this.files;
      await this.fetchSelected();
      this.status.textContent = window.Plotly ? `${runs.length} ${runs.length === 1 ? 'run' : 'runs'}` : NO_PLOTLY;
    } catch (error) {
      this.status.textContent = `The data could not be read: ${error.message}`;
    }
    document.documentElement.dataset.ready = 'true';
  }

  // The run with the highest MFU: what one wants to look into first.
  first() {
    const [best] = [...this.data.runs].sort((a, b) => (b.figures.mfu ?? -1) - (a.figures.mfu ?? -1));
    return best?.name ?? null;
  }

  async fetchSelected() {
    const { selected } = this.state;
    const [waterfall, details] = selected === null ? [NO_WATERFALL, NO_DETAILS] : await Promise.all([this.source.waterfall(selected), this.source.details(selected)]);
    if (selected !== this.state.selected) return; // another was selected meanwhile
    Object.assign(this.data, { waterfall, details });
    this.draw();
  }

  draw() {
    if (!this.data.runs.length) return;
    const { axis, smoothing, hidden, selected } = this.state;
    const shown = this.data.runs.filter(({ name }) => !hidden.has(name));
    const run = this.data.runs.find(({ name }) => name === selected);
    const sums = this.data.curves[axis] ?? {};
    this.drawTable();
    this.plot('mfu', curvesChart(shown, this.data.curves[MFU], { axis, sums, smoothing, title: 'MFU' }));
    this.plot('tokens', curvesChart(shown, this.data.curves[TOKENS], { axis, sums, smoothing, title: 'tokens/s' }));
    this.plot('roofline', rooflineChart(shown));
    this.selectedTitle.textContent = `Selected run: ${selected}`;
    this.advice.textContent = run.figures.advice ?? '';
    const { waterfall, parts, details } = this.data;
    this.plot('waterfall', waterfallChart(waterfall, parts.waterfall, { axis, sum: sums[selected] }));
    this.plot('last', lastWaterfallChart(waterfall, parts.waterfall));
    this.drawDetails(details, parts);
    this.plot('modules', modulesChart(run.figures.run?.modules ?? []));
    this.plot('finder', run.figures.run?.finder ? finderChart(run.figures.run.finder) : { description: null });
  }

  drawDetails(details, parts) {
    const { devices, operators, number_of: count, kernels, waterfall, pace, slowest, facts } = details;
    this.pace.textContent = pace ?? '';
    this.plot('devices', devicesChart(devices ?? [], parts.phases, slowest, count.devices));
    this.plot('kernels', kernelsChart(kernels, parts.kernels));
    this.fill('parts', waterfall && partsTable(parts, details));
    this.fill('facts', facts.length ? factsList(facts) : null);
    const sort = (column) => this.set({ operatorOrder: nextOrder(this.state.operatorOrder, column, OPERATOR_COLUMNS) });
    const more = count.operators > operators?.length ? `The first ${operators.length} of ${count.operators}, by time.` : '';
    this.fill('operators', operators && operatorsTable(operators, this.state.operatorOrder, sort), more);
  }

  // A section without content is hidden.
  fill(id, content, said = '') {
    const { whole, body, text } = this.sections.get(id);
    whole.hidden = !content;
    text.textContent = said;
    replaceIn(body, ...(content ? [content] : []));
  }

  drawTable() {
    const actions = {
      sort: (column) => this.set({ order: nextOrder(this.state.order, column, RUN_COLUMNS) }),
      show: (name, isShown) => {
        this.state.hidden[isShown ? 'delete' : 'add'](name);
        this.set({});
      },
      select: (name) => {
        this.state.selected = name;
        this.fetchSelected().catch((error) => (this.status.textContent = `The data could not be read: ${error.message}`));
      },
    };
    const { order, selected, hidden } = this.state;
    replaceIn(this.table, runsTable(this.data.runs, order, selected, hidden, actions));
  }

  // A chart without a description has nothing to show.
  plot(id, { data, layout, description, height }) {
    const { figure, plot, text } = this.figures.get(id);
    figure.hidden = !description;
    if (!description || !window.Plotly) return;
    text.textContent = description;
    if (height) plot.style.height = `${height}px`;
    window.Plotly.react(plot, data, { ...this.style(), ...layout, ...this.axes(layout) }, CONFIG);
  }

  style() {
    const style = getComputedStyle(document.documentElement);
    return {
      paper_bgcolor: 'rgba(0,0,0,0)',
      plot_bgcolor: 'rgba(0,0,0,0)',
      font: { color: style.getPropertyValue('--ink').trim() || '#000', size: 12 },
      margin: { l: 64, r: 16, t: 16, b: 48 },
      hoverlabel: { namelength: -1 },
      modebar: { bgcolor: 'rgba(0,0,0,0)', color: style.getPropertyValue('--muted').trim(), activecolor: style.getPropertyValue('--accent').trim() },
    };
  }

  axes(layout) {
    const line = getComputedStyle(document.documentElement).getPropertyValue('--line').trim();
    const names = Object.keys(layout).filter((name) => /^[xy]axis/.test(name));
    return Object.fromEntries(names.map((name) => [name, { gridcolor: line, zerolinecolor: line, ...layout[name] }]));
  }
}

// A place for a table that scrolls, also by the keyboard.
function region(id, title) {
  return element('div', { class: `panel scrolls ${id}`, tabindex: '0', role: 'region', 'aria-label': title });
}

// The children are made anew; whoever was on one of their buttons stays there.
function replaceIn(place, ...children) {
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  place.replaceChildren(...children);
  if (focused) place.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}
