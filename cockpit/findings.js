// SPDX-License-Identifier: GPL-2.0-or-later
// What this kernel answered to the daemon's probes.

import { element, say, set } from './element.js';
import { Table } from './table.js';
import { _, fill } from './words.js';

const SEVERITIES = {
    ok: () => _("As with TCP"),
    note: () => _("Different and safe"),
    issue: () => _("Must be accepted"),
};
const ORDER = ['issue', 'note', 'ok'];
const place = ({ severity }) => ORDER.indexOf(severity);

/** Issues first; what this page does not know comes before them. */
export const sorted = findings => findings.slice().sort((one, other) => place(one) - place(other));

/** The names of the targets for which an issue was accepted. */
export function acceptedFor(issue, targets) {
    const accepts = ({ key, value }) => key === 'AcceptKernelIssues' && value.split(' ').includes(issue);
    return targets.filter(({ policy }) => policy?.some(accepts)).map(({ name }) => name);
}

export class Findings {
    constructor(daemon) {
        this.daemon = daemon;
        this.targets = [];
        this.table = new Table(_("What this kernel does to accelerated sockets"), [
            { label: _("Finding"), name: 'wide' },
            { label: _("Meaning"), name: '' },
        ], finding => this.row(finding));
        this.element = element(
            'section', { class: 'card', 'aria-labelledby': 'findings-title' },
            element('header', { class: 'card-head' },
                    element('h2', { id: 'findings-title' }, _("What this kernel does to accelerated sockets"))),
            element('p', { class: 'intro' },
                    _("The daemon tries it at each start. What must be accepted is asked for when you add a target.")),
            this.table.element, this.table.empty);
    }

    /** Rejects with a Refusal. */
    async read() {
        const [[findings], [targets]] = await Promise.all(
            [this.daemon.call('ListFindings'), this.daemon.call('ListTargets')]);
        this.targets = targets;
        this.table.show(sorted(findings), ({ name }) => name, _("Nothing was found out."));
    }

    row(first) {
        const severity = element('span'), sentence = element('div'), accepted = element('div', { class: 'detail' });
        const show = finding => {
            say(severity, SEVERITIES[finding.severity]?.() ?? finding.severity);
            set(severity, 'class', `label ${finding.severity}`);
            say(sentence, finding.sentence);
            const names = finding.severity === 'issue' ? acceptedFor(finding.name, this.targets) : [];
            say(accepted, names.length ? fill(_("Accepted for: $0"), names.join(', ')) : '');
        };
        return {
            cells: [element('div', {}, element('span', { class: 'name' }, first.name), ' ', severity),
                    element('div', {}, sentence, accepted)],
            show,
        };
    }
}
