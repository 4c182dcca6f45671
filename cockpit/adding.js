// SPDX-License-Identifier: GPL-2.0-or-later
// The dialog that adds a target, asks what acceleration would bring, and has kernel issues confirmed.

import { Alert } from './alert.js';
import { AuditReport } from './audit.js';
import { choice, Dialog } from './dialog.js';
import { element, fillWith, say, set } from './element.js';
import * as units from './units.js';
import { variants } from './values.js';
import { _ } from './words.js';

const OPTIONS = { AcceptKernelIssues: 'as', runtime: 'b', wait: 'b' };

export class Adding {
    /** added: is called after a target was added. */
    constructor(daemon, added) {
        this.daemon = daemon;
        this.added = added;
        this.issues = [];
        this.offered = element('datalist', { id: 'units' });
        this.name = element('input', {
            type: 'text', id: 'target', list: 'units', autocomplete: 'off', spellcheck: 'false', required: true,
            'aria-describedby': 'target-help', oninput: () => this.forget(),
        });
        this.runtime = choice('runtime', _("Only until the daemon stops"));
        this.wait = choice('wait', _("It need not exist yet"), _("It is accelerated as soon as it starts."));
        this.alert = new Alert('danger', { id: 'adding-failed' });
        this.confirmations = element('fieldset', { hidden: true });
        this.report = new AuditReport(daemon);
        this.submit = element('button', { type: 'submit', class: 'button primary' });
        this.audit = element('button', { type: 'button', class: 'button secondary', id: 'audit', onclick: () => this.ask() },
                             _("What would it bring?"));
        this.dialog = new Dialog(_("Accelerate a target"), 'adding', [
            element('div', { class: 'field' },
                    element('label', { for: 'target' }, _("Service, container, slice or cgroup path")), this.name, this.offered,
                    element('div', { class: 'detail', id: 'target-help' },
                            _("For instance postgresql.service or /system.slice; * is every local connection of this host."))),
            this.runtime.element, this.wait.element, this.report.element, this.alert.element, this.confirmations,
        ], [this.submit, this.audit], () => this.enable());
        this.element = this.dialog.element;
    }

    /** name: of the target, if it is known. confirming: whether the daemon wants the kernel's issues to be accepted. */
    async open(name = '', confirming = false) {
        this.name.value = name;
        this.runtime.box.checked = this.wait.box.checked = false;
        this.forget();
        this.audit.hidden = !this.daemon.has('Audit');
        this.dialog.open();
        if (confirming)
            await this.confirm();
        const listed = await units.running();
        fillWith(this.offered, listed.map(({ name: unit, description }) => element('option', { value: unit }, description)));
    }

    /** The name is another one: what was said of the former does not hold. */
    forget() {
        this.issues = [];
        this.alert.clear();
        this.report.clear();
        this.confirmations.hidden = true;
        fillWith(this.confirmations);
        say(this.submit, _("Accelerate"));
    }

    async enable() {
        const name = this.name.value.trim();
        if (this.issues.some(({ box }) => !box.checked)) {
            this.alert.say(_("Confirm each issue of the kernel, or cancel."));
            this.issues.find(({ box }) => !box.checked).box.focus();
            return;
        }
        const options = {
            AcceptKernelIssues: this.issues.length ? this.issues.map(issue => issue.name) : undefined,
            runtime: this.runtime.box.checked || undefined,
            wait: this.wait.box.checked || undefined,
        };
        if (this.submit.hasAttribute('aria-disabled'))
            return;
        set(this.submit, 'aria-disabled', 'true');
        this.alert.clear();
        try {
            await this.daemon.call('EnableWithOptions', 'sa{sv}', name, variants(options, OPTIONS));
            this.dialog.close();
            this.added();
        } catch (refusal) {
            await this.refused(refusal);
        } finally {
            set(this.submit, 'aria-disabled', null);
        }
    }

    async refused(refusal) {
        if (refusal.kind === 'KernelIssue' && !this.issues.length) {
            await this.confirm();
            return;
        }
        this.alert.say(refusal.message, refusal.hint && element('p', {}, refusal.hint));
        this.name.focus();
    }

    /** Ask for a confirmation of each issue that the kernel has. */
    async confirm() {
        let findings;
        try {
            [findings] = await this.daemon.call('ListFindings');
        } catch (failed) {
            this.alert.say(failed.message);
            return;
        }
        this.alert.say(_("Nothing was enabled: this kernel has issues that must be accepted first."),
                       element('p', {}, _("Accept them if no program of the target does what they describe.")));
        this.issues = findings.filter(({ severity }) => severity === 'issue').map(({ name, sentence }) => (
            { name, ...choice(`accept-${name}`, name, sentence) }));
        fillWith(this.confirmations, element('legend', {}, _("I accept for this target:")),
                 this.issues.map(issue => issue.element));
        this.confirmations.hidden = false;
        say(this.submit, _("Accept and accelerate"));
        this.issues[0]?.box.focus();
    }

    async ask() {
        if (this.audit.hasAttribute('aria-disabled'))
            return;
        set(this.audit, 'aria-disabled', 'true');
        await this.report.run(this.name.value.trim());
        set(this.audit, 'aria-disabled', null);
    }
}
