// SPDX-License-Identifier: GPL-2.0-or-later
// Elements of the page. Text from programs only ever becomes text: nothing here reads HTML from a string.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * attributes: "on..." is a listener; true sets one without a value, false and null leave it out.
 * children: elements, or what becomes text; null is left out.
 */
export function element(tag, attributes = {}, ...children) {
    return dress(document.createElement(tag), attributes, children);
}

/** The same, for the parts of a drawing. */
export function drawn(tag, attributes = {}, ...children) {
    return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith('on'))
            made.addEventListener(name.slice(2), value);
        else
            set(made, name, value);
    }
    fillWith(made, ...children);
    return made;
}

/** Set an attribute, or take it away, only if that changes something: screen readers announce changes. */
export function set(target, name, value) {
    if (value === false || value === null || value === undefined) {
        target.removeAttribute(name);
        return;
    }
    const text = value === true ? '' : String(value);
    if (target.getAttribute(name) !== text)
        target.setAttribute(name, text);
}

/** Replace what an element contains. */
export function fillWith(target, ...children) {
    target.replaceChildren(...children.flat().filter(child => child !== null && child !== undefined)
            .map(child => child instanceof Node ? child : String(child)));
}

/** Replace the text of an element, only if it is another one. */
export function say(target, text) {
    if (target.textContent !== text)
        target.textContent = text;
}
