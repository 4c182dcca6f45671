// SPDX-License-Identifier: GPL-2.0-or-later
// Made by tools/generate-translations: run "make translations".
cockpit.locale({
 "": {
  "plural-forms": n => (n != 1),
  "language": "de",
  "language-direction": "ltr"
 },
 "Local TCP acceleration": [
  null,
  "Lokale TCP-Beschleunigung"
 ]
});
