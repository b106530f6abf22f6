package scheduler

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Describe says in short English when s is due.
func Describe(s Spec) string {
	text := ""
	switch {
	case !s.at.IsZero():
		text = "once, at " + s.at.In(s.Zone()).Format(time.RFC3339Nano)
	case s.every > 0:
		text = "every " + plainDuration(s.every)
		if s.offset > 0 {
			text += " plus " + plainDuration(s.offset)
		}
	case s.wall != nil:
		text = s.wall.clockText() + s.wall.dateText() + " (" + s.Zone().String() + ")"
	default:
		return "never"
	}
	if !s.start.IsZero() {
		text += ", from " + s.start.In(s.Zone()).Format(time.RFC3339)
	}
	if !s.end.IsZero() {
		text += ", before " + s.end.In(s.Zone()).Format(time.RFC3339)
	}
	if len(s.names) > 0 {
		text += ", except " + strings.Join(s.names, " and ")
	}
	if s.jitter > 0 {
		text += ", up to " + plainDuration(s.jitter) + " later"
	}
	return text
}

// plainDuration drops the zero units of time.Duration.String: 1h0m0s is 1h.
func plainDuration(d time.Duration) string {
	text := d.String()
	text = strings.TrimSuffix(text, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(text, "m0s")]
	return strings.TrimSuffix(text, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(text, "h0m")]
}

func (f *fields) clockText() string {
	if f.times != nil {
		return "at " + timesText(f.times)
	}
	seconds, minutes, hours := listOf(f.second, 0, 59, number), listOf(f.minute, 0, 59, number), listOf(f.hour, 0, 23, number)
	second, oneSecond := only(f.second)
	minute, oneMinute := only(f.minute)
	hour, oneHour := only(f.hour)
	suffix := ""
	if !oneSecond || second != 0 {
		suffix = ", seconds " + seconds
		if seconds == "" {
			suffix = ", every second"
		}
	}
	switch {
	case minutes == "" && hours == "" && seconds == "":
		return "every second"
	case minutes == "" && hours == "":
		return "every minute" + suffix
	case minutes == "":
		return "every minute of hour " + hours + suffix
	case oneMinute && oneHour && oneSecond:
		if second == 0 {
			return fmt.Sprintf("at %02d:%02d", hour, minute)
		}
		return fmt.Sprintf("at %02d:%02d:%02d", hour, minute, second)
	case hours == "" && oneMinute && minute == 0:
		return "every hour" + suffix
	case hours == "":
		return "every hour at minute " + minutes + suffix
	}
	return "at minute " + minutes + " of hour " + hours + suffix
}

func timesText(times []time.Duration) string {
	const most = 10
	var texts []string
	for _, t := range times[:min(len(times), most)] {
		text := fmt.Sprintf("%02d:%02d", t/time.Hour, t%time.Hour/time.Minute)
		if seconds := t % time.Minute / time.Second; seconds != 0 {
			text += fmt.Sprintf(":%02d", seconds)
		}
		texts = append(texts, text)
	}
	if len(times) > most {
		texts = append(texts, fmt.Sprintf("and %d more", len(times)-most))
	}
	return strings.Join(texts, ", ")
}

func (f *fields) dateText() string {
	var days []string
	if dom := f.domText(); dom != "" {
		days = append(days, dom)
	}
	if dow := listOf(f.dow, 0, 6, func(d int) string { return time.Weekday(d).String() }); dow != "" {
		days = append(days, "on "+dow)
	}
	text := ""
	if len(days) > 0 {
		joined := " or "
		if f.anyDom || f.anyDow {
			joined = ", if "
		}
		text = " " + strings.Join(days, joined)
	}
	if months := listOf(f.month, 1, 12, func(m int) string { return time.Month(m).String() }); months != "" {
		text += " in " + months
	}
	return text
}

func (f *fields) domText() string {
	dom := listOf(f.dom, 1, 31, number)
	if dom != "" {
		dom = "day " + dom
	}
	for n := 1; n <= 31; n++ {
		if f.fromEnd>>n&1 == 0 {
			continue
		}
		if dom != "" {
			dom += " or "
		}
		dom += map[bool]string{true: "the last day", false: "day " + strconv.Itoa(n) + " from the end"}[n == 1]
	}
	if dom == "" {
		return ""
	}
	return "on " + dom + " of the month"
}

func number(n int) string { return strconv.Itoa(n) }

// only returns the member of a set of one.
func only(set uint64) (int, bool) {
	n, _ := lowest(set, 0)
	return n, set != 0 && set&(set-1) == 0
}

// listOf writes the members of set with runs of three or more as ranges, "" when
// all of low..high are in it.
func listOf(set uint64, low, high int, name func(int) string) string {
	var parts []string
	for n := low; n <= high; n++ {
		if set>>n&1 == 0 {
			continue
		}
		last := n
		for last < high && set>>(last+1)&1 == 1 {
			last++
		}
		switch {
		case n == low && last == high:
			return ""
		case last-n >= 2:
			parts = append(parts, name(n)+"-"+name(last))
			n = last
		default:
			parts = append(parts, name(n))
		}
	}
	return strings.Join(parts, ", ")
}
