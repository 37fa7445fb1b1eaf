// What tables that sort by every column share: the order of their rows and the heads of their columns.
import { element, number } from './format.js';

const COLLATOR = new Intl.Collator('en', { numeric: true });

// columns: {title, value(row), text?(row), isText?}. Unknown values come last, whatever the direction.
export function sorted(rows, columns, { column, descending }) {
  const { value } = columns[column];
  const known = (row) => value(row) !== null && value(row) !== undefined;
  const compare = (a, b) => (typeof a === 'number' ? a - b : COLLATOR.compare(a, b));
  return [...rows].sort((a, b) => {
    if (!known(a) || !known(b)) return known(b) - known(a);
    return (descending ? -1 : 1) * compare(value(a), value(b));
  });
}

// The order after a click on a column's head: the other direction, or that in which the column is read first.
export function nextOrder(order, column, columns) {
  return { column, descending: order.column === column ? !order.descending : !columns[column].isText };
}

// focus: what the names of the buttons begin with, by which a button is found again after the table was made anew.
export function sortHeads(columns, order, focus, sort) {
  const direction = order.descending ? 'descending' : 'ascending';
  return columns.map(({ title, isText }, index) => {
    const button = element('button', { type: 'button', 'data-focus': `${focus} ${index}`, onclick: () => sort(index) }, title);
    return element('th', { scope: 'col', class: isText && 'text', 'aria-sort': order.column === index ? direction : 'none' }, button);
  });
}

export function cells(columns, row) {
  return columns.map(({ value, text, isText }, index) => {
    const shown = String(text ? text(row) : isText ? (value(row) ?? '–') : number(value(row)));
    return element('td', { class: index ? isText && 'text' : 'name text', title: index ? null : shown }, shown);
  });
}
