// SPDX-License-Identifier: GPL-2.0-or-later
// Made by tools/generate-translations: run "make translations".
cockpit.locale({
 "": {
  "plural-forms": n => (n != 1),
  "language": "de",
  "language-direction": "ltr"
 },
 "$0 connection": [
  null,
  "$0 Verbindung",
  "$0 Verbindungen"
 ],
 "$0 d": [
  null,
  "$0 d"
 ],
 "$0 decision": [
  null,
  "$0 Festlegung",
  "$0 Festlegungen"
 ],
 "$0 h": [
  null,
  "$0 h"
 ],
 "$0 min": [
  null,
  "$0 min"
 ],
 "$0 of $1": [
  null,
  "$0 von $1"
 ],
 "$0 of all bytes redirected so far": [
  null,
  "$0 aller Bytes bisher umgeleitet"
 ],
 "$0 on Linux $1": [
  null,
  "$0 unter Linux $1"
 ],
 "$0 s": [
  null,
  "$0 s"
 ],
 "$0 socket holds unread bytes": [
  null,
  "$0 Socket enthält ungelesene Bytes",
  "$0 Sockets enthalten ungelesene Bytes"
 ],
 "$0 to $1, port $2 ($3): $4": [
  null,
  "$0 zu $1, Port $2 ($3): $4"
 ],
 "$0 to the client": [
  null,
  "$0 zum Client"
 ],
 "$0 to the server": [
  null,
  "$0 zum Server"
 ],
 "$0/s": [
  null,
  "$0/s"
 ],
 "$0=$1, from $2": [
  null,
  "$0=$1, aus $2"
 ],
 "$0=$1, set for this target": [
  null,
  "$0=$1, für dieses Ziel gesetzt"
 ],
 "$0–$1 of $2": [
  null,
  "$0–$1 von $2"
 ],
 "Accelerate": [
  null,
  "Beschleunigen"
 ],
 "Accelerate $0": [
  null,
  "$0 beschleunigen"
 ],
 "Accelerate a target": [
  null,
  "Ein Ziel beschleunigen"
 ],
 "Accept and accelerate": [
  null,
  "Akzeptieren und beschleunigen"
 ],
 "Accept them if no program of the target does what they describe.": [
  null,
  "Akzeptieren Sie sie, wenn kein Programm des Ziels tut, was sie beschreiben."
 ],
 "Accepted for: $0": [
  null,
  "Akzeptiert für: $0"
 ],
 "Active": [
  null,
  "Aktiv"
 ],
 "Add target": [
  null,
  "Ziel hinzufügen"
 ],
 "Address": [
  null,
  "Adresse"
 ],
 "Age": [
  null,
  "Alter"
 ],
 "All": [
  null,
  "Alle"
 ],
 "All connections go by TCP. Start the service to accelerate those of its targets.": [
  null,
  "Alle Verbindungen laufen über TCP. Starten Sie den Dienst, um die seiner Ziele zu beschleunigen."
 ],
 "All targets": [
  null,
  "Alle Ziele"
 ],
 "All that this kernel does": [
  null,
  "Alles, was dieser Kernel tut"
 ],
 "And $0 more.": [
  null,
  "Und $0 weitere."
 ],
 "As with TCP": [
  null,
  "Wie bei TCP"
 ],
 "By TCP": [
  null,
  "Über TCP"
 ],
 "Cancel": [
  null,
  "Abbrechen"
 ],
 "Client": [
  null,
  "Client"
 ],
 "Confirm each issue of the kernel, or cancel.": [
  null,
  "Bestätigen Sie jedes Problem des Kernels, oder brechen Sie ab."
 ],
 "Connections": [
  null,
  "Verbindungen"
 ],
 "Connections that are not accelerated": [
  null,
  "Verbindungen, die nicht beschleunigt werden"
 ],
 "Count": [
  null,
  "Anzahl"
 ],
 "Default": [
  null,
  "Vorgabe"
 ],
 "Details": [
  null,
  "Einzelheiten"
 ],
 "Different and safe": [
  null,
  "Anders und unbedenklich"
 ],
 "Draining": [
  null,
  "Läuft aus"
 ],
 "Error:": [
  null,
  "Fehler:"
 ],
 "Every connection of a target could be accelerated so far.": [
  null,
  "Jede Verbindung eines Ziels konnte bisher beschleunigt werden."
 ],
 "Every message was redirected so far.": [
  null,
  "Jede Nachricht wurde bisher umgeleitet."
 ],
 "Filter": [
  null,
  "Filter"
 ],
 "Finding": [
  null,
  "Befund"
 ],
 "For instance postgresql.service or /system.slice; * is every local connection of this host.": [
  null,
  "Zum Beispiel postgresql.service oder /system.slice; * steht für jede lokale Verbindung dieses Rechners."
 ],
 "I accept for this target:": [
  null,
  "Ich akzeptiere für dieses Ziel:"
 ],
 "It is accelerated as soon as it starts.": [
  null,
  "Es wird beschleunigt, sobald es startet."
 ],
 "It need not exist yet": [
  null,
  "Es muss noch nicht existieren"
 ],
 "Journal": [
  null,
  "Journal"
 ],
 "Kernel": [
  null,
  "Kernel"
 ],
 "Local TCP acceleration": [
  null,
  "Lokale TCP-Beschleunigung"
 ],
 "Meaning": [
  null,
  "Bedeutung"
 ],
 "Messages of accelerated connections that went by TCP": [
  null,
  "Nachrichten beschleunigter Verbindungen, die über TCP gingen"
 ],
 "Mixed": [
  null,
  "Gemischt"
 ],
 "Must be accepted": [
  null,
  "Muss akzeptiert werden"
 ],
 "Next page": [
  null,
  "Nächste Seite"
 ],
 "No connection of a target is like that.": [
  null,
  "Keine Verbindung eines Ziels passt dazu."
 ],
 "No target has a connection.": [
  null,
  "Kein Ziel hat eine Verbindung."
 ],
 "Not accelerated": [
  null,
  "Nicht beschleunigt"
 ],
 "Note:": [
  null,
  "Hinweis:"
 ],
 "Nothing is accelerated yet: add a service, a container or a slice.": [
  null,
  "Noch wird nichts beschleunigt: Fügen Sie einen Dienst, einen Container oder eine Slice hinzu."
 ],
 "Nothing was enabled: this kernel has issues that must be accepted first.": [
  null,
  "Nichts wurde eingeschaltet: Dieser Kernel hat Probleme, die zuerst akzeptiert werden müssen."
 ],
 "Nothing was found out.": [
  null,
  "Nichts wurde festgestellt."
 ],
 "Nothing was sent yet": [
  null,
  "Noch wurde nichts gesendet"
 ],
 "Off": [
  null,
  "Aus"
 ],
 "On probation": [
  null,
  "Auf Probe"
 ],
 "Only until the daemon stops": [
  null,
  "Nur bis der Daemon endet"
 ],
 "Open the service": [
  null,
  "Dienst öffnen"
 ],
 "Overview": [
  null,
  "Überblick"
 ],
 "Pages": [
  null,
  "Seiten"
 ],
 "Path": [
  null,
  "Weg"
 ],
 "Policy": [
  null,
  "Richtlinie"
 ],
 "Port": [
  null,
  "Port"
 ],
 "Previous page": [
  null,
  "Vorherige Seite"
 ],
 "Program": [
  null,
  "Programm"
 ],
 "Reason": [
  null,
  "Grund"
 ],
 "Redirected": [
  null,
  "Umgeleitet"
 ],
 "Refused": [
  null,
  "Abgelehnt"
 ],
 "Running": [
  null,
  "Läuft"
 ],
 "Server": [
  null,
  "Server"
 ],
 "Service": [
  null,
  "Dienst"
 ],
 "Service, container, slice or cgroup path": [
  null,
  "Dienst, Container, Slice oder Cgroup-Pfad"
 ],
 "State": [
  null,
  "Zustand"
 ],
 "Stopped": [
  null,
  "Angehalten"
 ],
 "TCP": [
  null,
  "TCP"
 ],
 "Target": [
  null,
  "Ziel"
 ],
 "Targets": [
  null,
  "Ziele"
 ],
 "The daemon tries it at each start. What must be accepted is asked for when you add a target.": [
  null,
  "Der Daemon probiert es bei jedem Start aus. Was akzeptiert werden muss, wird beim Hinzufügen eines Ziels gefragt."
 ],
 "The sockaccel daemon is not running.": [
  null,
  "Der Daemon sockaccel läuft nicht."
 ],
 "This kernel limits what can be accelerated.": [
  null,
  "Dieser Kernel schränkt ein, was beschleunigt werden kann."
 ],
 "Throughput by path": [
  null,
  "Durchsatz nach Weg"
 ],
 "Throughput over the last five minutes; nothing is measured yet": [
  null,
  "Durchsatz der letzten fünf Minuten; noch ist nichts gemessen"
 ],
 "Throughput over the last five minutes; now $0 redirected and $1 by TCP": [
  null,
  "Durchsatz der letzten fünf Minuten; jetzt $0 umgeleitet und $1 über TCP"
 ],
 "To client": [
  null,
  "Zum Client"
 ],
 "To server": [
  null,
  "Zum Server"
 ],
 "Turn on administrative access at the top of Cockpit to see all of them.": [
  null,
  "Schalten Sie oben in Cockpit den administrativen Zugriff ein, um alle zu sehen."
 ],
 "Turn on administrative access at the top of Cockpit, or ask an administrator.": [
  null,
  "Schalten Sie oben in Cockpit den administrativen Zugriff ein, oder fragen Sie einen Administrator."
 ],
 "Views": [
  null,
  "Ansichten"
 ],
 "Waiting": [
  null,
  "Wartet"
 ],
 "Warning:": [
  null,
  "Warnung:"
 ],
 "Watching it for $0 seconds; nothing is changed.": [
  null,
  "Wird $0 Sekunden lang beobachtet; nichts wird geändert."
 ],
 "What an audit cannot see": [
  null,
  "Was eine Beobachtung nicht sehen kann"
 ],
 "What this kernel does to accelerated sockets": [
  null,
  "Was dieser Kernel mit beschleunigten Sockets tut"
 ],
 "What to do": [
  null,
  "Was zu tun ist"
 ],
 "What would it bring?": [
  null,
  "Was würde es bringen?"
 ],
 "You do not see whose connections these are, nor those of other network namespaces.": [
  null,
  "Sie sehen nicht, wessen Verbindungen dies sind, und keine anderer Netzwerk-Namensräume."
 ],
 "another host": [
  null,
  "anderer Rechner"
 ],
 "enabled by $0": [
  null,
  "eingeschaltet durch $0"
 ],
 "sockaccel is not running": [
  null,
  "sockaccel läuft nicht"
 ],
 "the last five minutes": [
  null,
  "die letzten fünf Minuten"
 ],
 "until the daemon stops": [
  null,
  "bis der Daemon endet"
 ]
});
