// The table of runs: sortable by every column, with a box to show a run in the charts and a button to look into it.
import { element, number, rate } from './format.js';

// What a column shows of a run, and what it is sorted by.
const COLUMNS = [
  { title: 'run', value: (run) => run.name, text: (run) => run.name },
  { title: 'MFU', value: (run) => run.figures.mfu },
  { title: 'tokens/s', value: (run) => run.figures.tokens_per_sec },
  { title: 'samples/s', value: (run) => run.figures.samples_per_sec },
  { title: 'step, s', value: (run) => run.step_time_sec },
  { title: 'peak', value: (run) => run.figures.peak?.flops_per_sec, text: (run) => rate(run.figures.peak?.flops_per_sec) },
  { title: 'batch', value: (run) => run.figures.run?.batch_size },
  { title: 'precision', value: (run) => run.figures.run?.precision, isText: true },
  { title: 'devices', value: (run) => run.figures.run?.devices },
  { title: 'parameters', value: (run) => run.figures.run?.parameters },
  { title: 'steps', value: (run) => run.figures.steps || null },
];

const COLLATOR = new Intl.Collator('en', { numeric: true });

// Unknown values come last, whatever the direction.
export function sorted(runs, { column, descending }) {
  const { value } = COLUMNS[column];
  const known = (run) => value(run) !== null && value(run) !== undefined;
  const compare = (a, b) => (typeof a === 'number' ? a - b : COLLATOR.compare(a, b));
  return [...runs].sort((a, b) => {
    if (!known(a) || !known(b)) return known(b) - known(a);
    return (descending ? -1 : 1) * compare(value(a), value(b));
  });
}

// runs: rows with name, figures, color; actions: sort(column), show(name, isShown), select(name).
export function runsTable(runs, order, selected, hidden, actions) {
  const heads = COLUMNS.map((column, index) => head(column, index, order, actions));
  const rows = sorted(runs, order).map((run) => row(run, run.name === selected, !hidden.has(run.name), actions));
  return element(
    'table',
    { 'aria-label': 'Runs' },
    element('thead', {}, element('tr', {}, plainHead('shown'), plainHead('selected'), ...heads)),
    element('tbody', {}, ...rows),
  );
}

function plainHead(title) {
  return element('th', { scope: 'col' }, title);
}

function head({ title }, index, order, actions) {
  const direction = order.descending ? 'descending' : 'ascending';
  const button = element('button', { type: 'button', 'data-focus': `sort ${index}`, onclick: () => actions.sort(index) }, title);
  return element('th', { scope: 'col', 'aria-sort': order.column === index ? direction : 'none' }, button);
}

function row(run, isSelected, isShown, actions) {
  const swatch = element('span', { class: 'swatch', style: `background:${run.color}`, 'aria-hidden': 'true' });
  const box = element('input', {
    type: 'checkbox',
    checked: isShown,
    'aria-label': `show ${run.name} in the charts`,
    'data-focus': `show ${run.name}`,
    onchange: (event) => actions.show(run.name, event.target.checked),
  });
  const choice = element('input', {
    type: 'radio',
    name: 'selected',
    checked: isSelected,
    'aria-label': `look into ${run.name}`,
    'data-focus': `select ${run.name}`,
    onchange: () => actions.select(run.name),
  });
  const cells = COLUMNS.map((column, index) => cell(column, run, index));
  return element(
    'tr',
    { 'aria-selected': String(isSelected) },
    element('td', {}, box, ' ', swatch),
    element('td', {}, choice),
    ...cells,
  );
}

function cell({ value, text, isText }, run, index) {
  const shown = text ? text(run) : isText ? (value(run) ?? '–') : number(value(run));
  return element('td', index ? {} : { class: 'name', title: shown }, String(shown));
}
