// SPDX-License-Identifier: GPL-2.0-or-later
// Values of D-Bus as cockpit.dbus has them. A variant there is { t: type, v: value }.

const isVariant = value => Object.keys(value).length === 2 && typeof value.t === 'string' && 'v' in value;

/** A value without the variants in it, at any depth. */
export function plain(value) {
    if (Array.isArray(value))
        return value.map(plain);
    if (value === null || typeof value !== 'object')
        return value;
    if (isVariant(value))
        return plain(value.v);
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
}

/** Options for a method that takes a{sv}. types: the D-Bus type of each that there is. Undefined ones are left out. */
export function variants(options, types) {
    return Object.fromEntries(Object.entries(options)
            .filter(([, value]) => value !== undefined)
            .map(([name, value]) => [name, { t: types[name], v: value }]));
}
