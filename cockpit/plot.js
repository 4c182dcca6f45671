// SPDX-License-Identifier: GPL-2.0-or-later
// Throughput as a drawing: one line for each path, which differ in colour and in their strokes.

import { drawn, element, say, set } from './element.js';
import { ceiling, SPAN_MS } from './throughput.js';
import { _, fill, rate } from './words.js';

const WIDTH = 600, HEIGHT = 160, TOP = 16, LEFT = 0, BOTTOM = 20;
const PATHS = ['redirected', 'tcp'];

export class Plot {
    constructor() {
        this.lines = Object.fromEntries(PATHS.map(path => [path, drawn('path', { class: `line ${path}` })]));
        this.drawing = drawn(
            'svg', {
                viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', class: 'plot', preserveAspectRatio: 'none',
                'aria-label': _("Throughput over the last five minutes; nothing is measured yet"),
            },
            [0, 0.5, 1].map(part => {
                const y = TOP + part * (HEIGHT - TOP - BOTTOM);
                return drawn('line', { class: 'grid', x1: LEFT, x2: WIDTH, y1: y, y2: y });
            }),
            ...Object.values(this.lines));
        this.scale = element('span', { class: 'scale', 'aria-hidden': 'true' });
        this.values = Object.fromEntries(PATHS.map(path => [path, element('strong')]));
        this.element = element(
            'figure', { class: 'throughput' },
            element('div', { class: 'plot-frame' }, this.scale, this.drawing,
                    element('span', { class: 'span', 'aria-hidden': 'true' }, _("the last five minutes"))),
            element('figcaption', { class: 'legend' }, ...PATHS.map(path => element(
                'span', { class: 'key' }, key(path), `${label(path)} `, this.values[path]))));
    }

    /** now: in ms. */
    show(throughput, now) {
        const top = ceiling(throughput.highest);
        for (const path of PATHS)
            set(this.lines[path], 'd', course(throughput.points, path, now, top));
        const latest = throughput.latest;
        for (const path of PATHS)
            say(this.values[path], latest ? rate(latest[path]) : '');
        say(this.scale, throughput.highest ? rate(top) : '');
        set(this.drawing, 'aria-label', latest
            ? fill(_("Throughput over the last five minutes; now $0 redirected and $1 by TCP"),
                   rate(latest.redirected), rate(latest.tcp))
            : _("Throughput over the last five minutes; nothing is measured yet"));
    }
}

const label = path => path === 'redirected' ? _("Redirected") : _("By TCP");

const key = path => drawn('svg', { class: 'key-line', viewBox: '0 0 24 8', 'aria-hidden': 'true' },
                          drawn('path', { class: `line ${path}`, d: 'M0 4H24' }));

/** The attribute "d" of a path: each point holds for its time. top: the rate at the upper edge. */
export function course(points, path, now, top) {
    const x = time => Math.max(LEFT, WIDTH - (now - time) * (WIDTH - LEFT) / SPAN_MS).toFixed(1);
    const y = value => (HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)).toFixed(1);
    return points.map((point, index) =>
        `${index === 0 || points[index - 1].to !== point.from ? 'M' : 'L'}${x(point.from)} ${y(point[path])}` +
        `H${x(point.to)}`).join('');
}
