// SPDX-License-Identifier: GPL-2.0-or-later
// Why something is not accelerated: the reasons with their counts, the most frequent first, each with what to do.

import { element, fillWith, say } from './element.js';
import { Table } from './table.js';
import { _, number } from './words.js';

/** Of one kind, "connection" or "message", those that occurred. counters: of DescribeCounters. stats: of Stats. */
export function ranked(kind, counters, stats) {
    return counters
            .filter(counter => counter.kind === kind)
            .map(counter => ({ ...counter, count: stats[`${kind}_reason_${counter.name}`] ?? 0 }))
            .filter(({ count }) => count > 0)
            .sort((one, other) => other.count - one.count || (one.name < other.name ? -1 : 1));
}

const KINDS = {
    connection: {
        title: () => _("Connections that are not accelerated"),
        nothing: () => _("Every connection of a target could be accelerated so far."),
    },
    message: {
        title: () => _("Messages of accelerated connections that went by TCP"),
        nothing: () => _("Every message was redirected so far."),
    },
};

export class Reasons {
    constructor(daemon, changed) {
        this.daemon = daemon;
        this.counters = null;
        this.target = element('select', { id: 'reasons-target', onchange: changed });
        this.names = [];
        this.tables = Object.fromEntries(Object.keys(KINDS).map(kind => [kind, table(kind)]));
        this.element = element(
            'div', {},
            element('div', { class: 'toolbar' }, element(
                'div', { class: 'field' }, element('label', { for: 'reasons-target' }, _("Target")), this.target)),
            Object.entries(this.tables).map(([kind, each]) => element(
                'section', { class: 'card', 'aria-label': KINDS[kind].title() },
                element('header', { class: 'card-head' }, element('h2', {}, KINDS[kind].title())),
                each.element, each.empty)));
    }

    /** Another daemon may have other counters. */
    forget() {
        this.counters = null;
    }

    /** Rejects with a Refusal. */
    async read() {
        this.counters ??= (await this.daemon.call('DescribeCounters'))[0];
        const [targets] = await this.daemon.call('ListTargets');
        this.offer(targets.filter(({ state }) => ['active', 'waiting'].includes(state)).map(({ name }) => name));
        const name = this.target.value;
        const [stats] = await (name ? this.daemon.call('TargetStats', 's', name) : this.daemon.call('Stats'));
        for (const [kind, each] of Object.entries(this.tables))
            each.show(ranked(kind, this.counters, stats), ({ name: reason }) => reason, KINDS[kind].nothing());
    }

    offer(names) {
        if (this.target.options.length && names.join('\n') === this.names.join('\n'))
            return;
        const { value } = this.target;
        this.names = names;
        fillWith(this.target, element('option', { value: '' }, _("All targets")),
                 names.map(name => element('option', { value: name }, name)));
        this.target.value = names.includes(value) ? value : '';
    }
}

function table(kind) {
    return new Table(KINDS[kind].title(), [
        { label: _("Reason"), name: 'wide' },
        { label: _("What to do"), name: 'wide' },
        { label: _("Count"), name: 'number' },
    ], reason => {
        const count = element('span');
        return {
            cells: [element('div', {}, element('span', { class: 'name' }, reason.name),
                            element('div', { class: 'detail' }, reason.sentence)),
                    reason.advice ?? '', count],
            show: now => say(count, number(now.count)),
        };
    });
}
