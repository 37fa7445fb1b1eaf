// The table of runs: sortable by every column, with a box to show a run in the charts and a button to look into it.
import { element, rate } from './format.js';
import { cells, sorted, sortHeads } from './sortable.js';

// What a column shows of a run, and what it is sorted by.
export const RUN_COLUMNS = [
  { title: 'run', value: (run) => run.name, isText: true },
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

// runs: rows with name, figures, color; actions: sort(column), show(name, isShown), select(name).
export function runsTable(runs, order, selected, hidden, actions) {
  const heads = sortHeads(RUN_COLUMNS, order, 'sort', actions.sort);
  const rows = sorted(runs, RUN_COLUMNS, order).map((run) => runRow(run, run.name === selected, !hidden.has(run.name), actions));
  return element(
    'table',
    { 'aria-label': 'Runs' },
    element('thead', {}, element('tr', {}, plainHead('shown'), plainHead('selected'), ...heads)),
    element('tbody', {}, ...rows),
  );
}

function plainHead(title) {
  return element('th', { scope: 'col', class: 'text' }, title);
}

function runRow(run, isSelected, isShown, actions) {
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
  return element(
    'tr',
    { 'aria-selected': String(isSelected) },
    element('td', { class: 'text' }, box, ' ', swatch),
    element('td', { class: 'text' }, choice),
    ...cells(RUN_COLUMNS, run),
  );
}
