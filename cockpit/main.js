// SPDX-License-Identifier: GPL-2.0-or-later
// The page: what it shows now, and what it asks the daemon meanwhile.

import { Adding } from './adding.js';
import { Alert } from './alert.js';
import { Connections } from './connections.js';
import { Daemon } from './daemon.js';
import { element, fillWith, say, set } from './element.js';
import { Findings } from './findings.js';
import { Plot } from './plot.js';
import { Poll } from './poll.js';
import { Reasons } from './reasons.js';
import { Targets } from './targets.js';
import * as theme from './theme.js';
import { Throughput } from './throughput.js';
import { _, fill, language, share } from './words.js';

const { cockpit } = globalThis;

const UNIT = '/system/services#/sockaccel.service';
const JOURNAL = '/system/logs#/?prio=debug&_SYSTEMD_UNIT=sockaccel.service';

class Page {
    constructor() {
        this.daemon = new Daemon();
        this.failures = new Map();
        this.throughput = new Throughput();
        this.plot = new Plot();
        this.part = element('strong', { id: 'share' });
        const refresh = () => this.refresh();
        this.adding = new Adding(this.daemon, refresh);
        this.targets = new Targets(this.daemon, this.adding);
        this.connections = new Connections(this.daemon, refresh);
        this.reasons = new Reasons(this.daemon, refresh);
        this.findings = new Findings(this.daemon);
        const poll = (ask, every) => new Poll(() => this.guarded(ask, ask), every, cockpit);
        // Of each view, by its place in the address: its label, what it shows, what it reads.
        this.views = {
            '': {
                label: _("Overview"), element: element('div', {}, this.summary(), this.targets.element),
                polls: [poll(() => this.measure(), 2000), poll(() => this.targets.measure(), 5000)],
                changed: () => this.targets.read(),
            },
            connections: {
                label: _("Connections"), element: this.connections.element,
                polls: [poll(() => this.connections.read(), 5000)],
            },
            reasons: {
                label: _("Not accelerated"), element: this.reasons.element, polls: [poll(() => this.reasons.read(), 5000)],
            },
            kernel: {
                label: _("Kernel"), element: this.findings.element, polls: [], changed: () => this.findings.read(),
            },
        };
        this.build();
    }

    summary() {
        return element('section', { class: 'card', 'aria-labelledby': 'throughput-title' },
                       element('header', { class: 'card-head' },
                               element('h2', { id: 'throughput-title' }, _("Throughput by path")), this.part),
                       this.plot.element);
    }

    build() {
        const jump = (text, place) => element(
            'button', { type: 'button', class: 'button link', onclick: () => cockpit.jump(place) }, text);
        this.state = element('span', { class: 'label', role: 'status', id: 'state' });
        this.version = element('span', { class: 'subtle', id: 'version' });
        this.degraded = new Alert('warning', { id: 'degraded' });
        this.failed = new Alert('danger', { id: 'failed' });
        this.tabs = Object.fromEntries(Object.entries(this.views).map(([name, view]) => [
            name, element('a', { href: `#/${name}` }, view.label)]));
        this.navigation = element('nav', { class: 'tabs', 'aria-label': _("Views") },
                                  element('ul', {}, Object.values(this.tabs).map(tab => element('li', {}, tab))));
        this.content = element('div', { id: 'content' });
        this.stopped = element(
            'section', { class: 'card empty-state', hidden: true, id: 'stopped' },
            element('h2', {}, _("sockaccel is not running")),
            element('p', {}, _("All connections go by TCP. Start the service to accelerate those of its targets.")),
            this.problem = element('p', { class: 'detail' }),
            element('button', { type: 'button', class: 'button primary', onclick: () => cockpit.jump(UNIT) },
                    _("Open the service")));
        fillWith(document.getElementById('page'),
                 element('header', { class: 'page-head' },
                         element('div', {}, element('h1', {}, _("Local TCP acceleration")), ' ', this.state, ' ', this.version),
                         element('div', { class: 'links' }, jump(_("Service"), UNIT), jump(_("Journal"), JOURNAL))),
                 this.degraded.element, this.failed.element, this.stopped, this.navigation, this.content,
                 this.adding.element);
        this.content.hidden = this.navigation.hidden = true;
    }

    start() {
        theme.follow();
        cockpit.translate();
        // By it a screen reader chooses its voice.
        document.documentElement.lang = language();
        this.daemon.addEventListener('presence', () => this.presence());
        this.daemon.addEventListener('change', () => this.refresh());
        cockpit.addEventListener('locationchanged', () => this.open());
        cockpit.addEventListener('visibilitychange', () => cockpit.hidden || this.refresh());
        this.daemon.follow();
    }

    get view() {
        return this.views[cockpit.location.path[0] ?? ''] ?? this.views[''];
    }

    presence() {
        const { present, problem } = this.daemon;
        this.failures.clear();
        this.failed.clear();
        this.connections.forget();
        this.reasons.forget();
        this.throughput.forget();
        say(this.state, present ? _("Running") : _("Stopped"));
        set(this.state, 'class', `label ${present ? 'active' : 'disabled'}`);
        this.stopped.hidden = present;
        say(this.problem, problem || '');
        this.navigation.hidden = this.content.hidden = !present;
        if (!present) {
            this.degraded.clear();
            say(this.version, '');
            this.adding.dialog.close();
        }
        this.open();
    }

    /** Show the view that the address names, and let only its polls run. */
    open() {
        const { view } = this;
        for (const each of Object.values(this.views)) {
            if (each !== view || !this.daemon.present)
                each.polls.forEach(poll => poll.stop());
        }
        for (const [name, tab] of Object.entries(this.tabs))
            set(tab, 'aria-current', this.views[name] === view ? 'page' : null);
        if (this.content.firstChild !== view.element)
            fillWith(this.content, view.element);
        if (this.daemon.present)
            this.refresh().then(() => this.daemon.present && this.view === view && view.polls.forEach(poll => poll.start()));
    }

    /** Read anew what the daemon signals, and ask at once what else the view shows. */
    async refresh() {
        if (!this.daemon.present || cockpit.hidden)
            return;
        const { view } = this;
        await this.guarded(this, async () => {
            this.about(await this.daemon.properties());
            await view.changed?.();
        });
        view.polls.forEach(poll => poll.now());
    }

    about(properties) {
        say(this.version, fill(_("$0 on Linux $1"), properties.Version, properties.KernelRelease));
        if (!properties.Degraded)
            this.degraded.clear();
        else if (this.degraded.element.hidden)
            this.degraded.say(_("This kernel limits what can be accelerated."), element(
                'details', { open: matchMedia('(min-width: 45rem)').matches },
                element('summary', {}, _("Details")), element('p', {}, properties.Degraded),
                element('a', { href: '#/kernel' }, _("All that this kernel does"))));
    }

    async measure() {
        const [counters] = await this.daemon.call('Stats');
        const now = performance.now();
        this.throughput.add(now, counters);
        this.plot.show(this.throughput, now);
        const part = share(counters.redirected_bytes, counters.tcp_bytes);
        say(this.part, part ? fill(_("$0 of all bytes redirected so far"), part) : _("Nothing was sent yet"));
    }

    /** Do something that asks the daemon, and show what fails until the same succeeds. */
    async guarded(key, work) {
        const { generation } = this.daemon;
        this.failures.delete(key);
        try {
            await work();
        } catch (error) {
            // What a daemon that has gone did not answer is no news.
            if (generation === this.daemon.generation && this.daemon.present)
                this.failures.set(key, error.message);
        }
        const [message] = this.failures.values();
        if (message)
            this.failed.say(message);
        else
            this.failed.clear();
    }
}

new Page().start();
