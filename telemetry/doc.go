// Package telemetry sets up what a process tells about itself: its log and its
// metrics. It also masks secrets in text that is about to be shown.
//
// It keeps no global logger and no global registry: whoever assembles a process
// makes one of each and hands them down.
package telemetry
