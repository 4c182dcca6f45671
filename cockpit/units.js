// SPDX-License-Identifier: GPL-2.0-or-later
// What systemd runs that can be a target: services, containers (scopes among them) and slices.

const { cockpit } = globalThis;

const KINDS = ['.service', '.scope', '.slice'];

/** Of each { name, description }, sorted by name. listed: of systemd's ListUnits. */
export function eligible(listed) {
    return listed
            .map(([name, description, , active]) => ({ name, description, active }))
            .filter(({ name, active }) => active === 'active' && KINDS.some(kind => name.endsWith(kind)))
            .map(({ name, description }) => ({ name, description: description === name ? '' : description }))
            .sort((one, other) => one.name < other.name ? -1 : 1);
}

/** Those that run now. None where systemd does not answer: a name can be typed in any case. */
export async function running() {
    const client = cockpit.dbus('org.freedesktop.systemd1', { bus: 'system' });
    try {
        const [listed] = await client.call(
            '/org/freedesktop/systemd1', 'org.freedesktop.systemd1.Manager', 'ListUnits', [], { type: '' });
        return eligible(listed);
    } catch (error) {
        console.warn(`systemd does not list its units (${error.message}), ignoring`);
        return [];
    } finally {
        client.close();
    }
}
