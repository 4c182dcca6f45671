// SPDX-License-Identifier: GPL-2.0-or-later
// org.sockaccel1 on the system bus, as org.sockaccel1(5) has it: whether it is there, its methods, its signals.

import { plain } from './values.js';
import { _ } from './words.js';

const { cockpit } = globalThis;

const NAME = 'org.sockaccel1';
const PATH = '/org/sockaccel1';
const MANAGER = 'org.sockaccel1.Manager';
const PROPERTIES = 'org.freedesktop.DBus.Properties';
const ERROR = 'org.sockaccel1.Error.';
const BUS = 'org.freedesktop.DBus';

/** What the daemon answers to a call that fails. kind: what follows org.sockaccel1.Error., "" for other errors. */
export class Refusal extends Error {
    constructor(error) {
        super(error.message || error.problem || String(error));
        this.kind = error.name?.startsWith(ERROR) ? error.name.slice(ERROR.length) : '';
    }

    /** What the user can do in Cockpit about it, "" where the message says all. */
    get hint() {
        return this.kind === 'NotPermitted'
            ? _("Turn on administrative access at the top of Cockpit, or ask an administrator.")
            : '';
    }
}

/**
 * Events: "presence" when it comes or goes, "change" when it signals that a target or a property is different.
 * Nothing here starts the daemon: an administrator may have stopped it, and a page that is open must not undo that.
 */
export class Daemon extends EventTarget {
    constructor() {
        super();
        this.present = null;
        this.methods = new Set();
        this.client = null;
        this.generation = 0;
    }

    /** Find out whether the daemon is there, and follow it from now on. */
    async follow() {
        this.bus = cockpit.dbus(BUS, { bus: 'system' });
        this.bus.addEventListener('close', (_event, { problem }) => this.absent(problem));
        this.bus.subscribe(
            { interface: BUS, member: 'NameOwnerChanged', arg0: NAME },
            (_path, _interface, _member, [, , owner]) => owner ? this.appeared() : this.absent());
        try {
            const [running] = await this.bus.call('/org/freedesktop/DBus', BUS, 'NameHasOwner', [NAME], { type: 's' });
            await (running ? this.appeared() : this.absent());
        } catch (error) {
            this.absent(error.problem || error.message);
        }
        // For a page that asks, Cockpit loads it anew when administrative access changes: the connection to the bus is
        // opened as another user then.
        cockpit.permission({ admin: true });
    }

    async appeared() {
        const generation = ++this.generation;
        const { client: former } = this;
        // "track": the channel ends with this daemon, and so do the calls that it has not answered.
        const client = cockpit.dbus(NAME, { bus: 'system', superuser: 'try', track: true });
        this.client = client;
        former?.close();
        client.addEventListener('close', () => client === this.client && this.absent());
        client.subscribe({ path: PATH, interface: MANAGER, member: 'TargetChanged' }, () => this.changed());
        client.subscribe({ path: PATH, interface: PROPERTIES, member: 'PropertiesChanged' }, () => this.changed());
        try {
            const methods = await this.introspect(client);
            if (generation !== this.generation)
                return;
            this.methods = methods;
            this.present = true;
            this.problem = '';
            this.dispatchEvent(new Event('presence'));
        } catch (error) {
            if (generation === this.generation)
                this.absent(error.message);
        }
    }

    /** problem: why it cannot be reached, "" if it does not run. */
    absent(problem = '') {
        this.generation += 1;
        const { client } = this;
        this.client = null;
        client?.close();
        if (this.present === false && this.problem === problem)
            return;
        this.present = false;
        this.problem = problem;
        this.dispatchEvent(new Event('presence'));
    }

    changed() {
        this.dispatchEvent(new Event('change'));
    }

    async introspect(client) {
        const [xml] = await client.call(PATH, 'org.freedesktop.DBus.Introspectable', 'Introspect', [], { type: '' });
        const parsed = new DOMParser().parseFromString(xml, 'text/xml');
        const methods = parsed.querySelectorAll(`interface[name="${MANAGER}"] > method`);
        return new Set(Array.from(methods, method => method.getAttribute('name')));
    }

    /** Whether this version of the daemon has a method. */
    has(method) {
        return this.methods.has(method);
    }

    /** What a method answers, as an array of its values. signature: of the arguments. Rejects with a Refusal. */
    call(method, signature = '', ...values) {
        return this.ask(MANAGER, method, signature, values);
    }

    /** All properties by name. Rejects with a Refusal. */
    async properties() {
        const [found] = await this.ask(PROPERTIES, 'GetAll', 's', [MANAGER]);
        return found;
    }

    async ask(face, method, signature, values) {
        if (!this.client)
            throw new Refusal({ message: _("The sockaccel daemon is not running.") });
        try {
            return plain(await this.client.call(PATH, face, method, values, { type: signature }));
        } catch (error) {
            throw new Refusal(error);
        }
    }
}
