// Package source polls sources of work and tells them what became of it. A source
// is an HTTP endpoint, which the leading master asks, or a function of a
// package, which runs on workers like any other run: no package code ever runs
// in a master.
//
// The package decides what is asked when and reads the answers; the store keeps,
// in one transaction with the runs, what was listed and what was recorded. It
// trusts no answer: one that cannot be used is an error of that source, which
// stops no other.
package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/catena-run/catena/store"
	"github.com/catena-run/catena/task"
	"github.com/catena-run/catena/telemetry"
)

const (
	lookEvery  = 100 * time.Millisecond
	sweepEvery = time.Minute
	// maxAsking bounds how many requests are under way at once, of all sources: each may
	// hold an answer of task.MaxSourceBody in memory.
	maxAsking = 64
	// writePatience bounds what is written of a poll.
	writePatience = 15 * time.Second
	// maxRecord is how many bytes of outcomes one record carries, so that it fits into the params of a run.
	maxRecord = task.MaxSourceBody * 3 / 4
)

// Enqueuer tells the queue of parcels after their commit.
type Enqueuer interface {
	Enqueue(ctx context.Context, parcels []store.Parcel)
}

// Config of the sources.
type Config struct {
	Lookup func(name string) (string, bool) // a variable of the environment, for headers; nil: there is none
}

// Sources is the leader's care for sources.
type Sources struct {
	store   *store.Store
	queue   Enqueuer
	log     logrus.FieldLogger
	caller  *caller
	metrics *metrics
}

// New returns the care for the sources of s.
func New(config Config, s *store.Store, q Enqueuer, log logrus.FieldLogger) *Sources {
	if config.Lookup == nil {
		config.Lookup = func(string) (string, bool) { return "", false }
	}
	return &Sources{store: s, queue: q, log: log, caller: newCaller(config.Lookup), metrics: newMetrics()}
}

// Metrics counts polls, records and items.
func (s *Sources) Metrics() prometheus.Collector { return s.metrics }

// Lead works until ctx ends, as the leader of the given term. When it returns no
// request is under way any more.
func (s *Sources) Lead(ctx context.Context, term int64) {
	defer s.caller.close()
	l := &leading{Sources: s, term: term, busy: map[string]map[string]bool{actionIterate: {}, actionRecord: {}}, held: map[string]hold{}, slots: make(chan struct{}, maxAsking), remarks: newRemarks(s.log)}
	var all sync.WaitGroup
	all.Go(func() { l.repeat(ctx, "sources", lookEvery, l.look) })
	all.Go(func() { l.repeat(ctx, "ended items", lookEvery, l.end) })
	all.Go(func() { l.repeat(ctx, "recorded items", sweepEvery, l.sweep) })
	all.Wait()
	l.asking.Wait()
}

// leading is one term.
type leading struct {
	*Sources
	term    int64
	slots   chan struct{} // a token for each request under way
	asking  sync.WaitGroup
	remarks *remarks
	ended   uuid.UUID // where the look for ended runs goes on

	mu   sync.Mutex
	busy map[string]map[string]bool // the names of sources by the action that is under way
	held map[string]hold            // by action and name
}

// hold keeps a source from being asked again at once when what became of it could not
// be written: the database then knows of no wait.
type hold struct {
	until time.Time
	wait  time.Duration
}

const (
	leastHold = time.Second
	mostHold  = 30 * time.Second
)

// repeat does work again and again until ctx ends, and rests for twice the time
// that it took, so that a large backlog takes a share of the time and not all of it.
func (l *leading) repeat(ctx context.Context, name string, every time.Duration, work func(context.Context) error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		err := work(ctx)
		switch {
		case ctx.Err() != nil || store.StaleTerm(err):
			return
		case err != nil && !failing:
			l.log.WithField("duty", name).WithError(err).Warn("a leader's duty fails; it is tried again")
		case err == nil && failing:
			l.log.WithField("duty", name).Info("a leader's duty works again")
		}
		failing = err != nil
		timer.Reset(max(every, 2*time.Since(began)))
	}
}

// look begins what is due.
func (l *leading) look(ctx context.Context) error {
	if len(l.slots) == cap(l.slots) {
		return nil
	}
	// What is under way now is left out by the look itself, so that it sees what
	// became of all else.
	due, err := l.store.DueSources(ctx, store.DueFilter{NoPoll: l.occupied(actionIterate), NoRecord: l.occupied(actionRecord), Limit: 2 * maxAsking})
	if err != nil {
		return err
	}
	for _, turn := range due {
		if turn.Poll {
			l.begin(ctx, actionIterate, turn, l.poll)
		}
		if turn.Record {
			l.begin(ctx, actionRecord, turn, l.record)
		}
	}
	return nil
}

// occupied returns the sources for which an action is under way or held.
func (l *leading) occupied(action string) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.busy[action] {
		names = append(names, name)
	}
	now := time.Now()
	for id, h := range l.held {
		if name, ours := strings.CutPrefix(id, action+" "); ours && now.Before(h.until) {
			names = append(names, name)
		}
	}
	return names
}

// begin does work in the background, unless too much is under way: then a later
// look finds it.
func (l *leading) begin(ctx context.Context, action string, turn store.SourceTurn, work func(context.Context, store.SourceTurn) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.slots <- struct{}{}:
	default:
		return
	}
	l.busy[action][turn.Name] = true
	l.asking.Go(func() {
		err := work(ctx, turn)
		unwritten := err != nil && ctx.Err() == nil && !store.SourceChanged(err) && !store.StaleTerm(err)
		if unwritten {
			l.log.WithFields(logrus.Fields{"source": turn.Name, "action": action}).WithError(err).Warn("what became of a source cannot be written; it is tried again")
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.busy[action], turn.Name)
		l.hold(action+" "+turn.Name, unwritten)
		<-l.slots
	})
}

// hold keeps an action on a source waiting, longer each time, or ends that.
func (l *leading) hold(id string, unwritten bool) {
	if !unwritten {
		delete(l.held, id)
		return
	}
	wait := min(max(2*l.held[id].wait, leastHold), mostHold)
	l.held[id] = hold{until: time.Now().Add(wait), wait: wait}
}

// poll asks a source for work, or reads what its run has given.
func (l *leading) poll(ctx context.Context, turn store.SourceTurn) error {
	if problem := turn.Validate(); problem != nil {
		return l.pollFailed(ctx, turn, problem)
	}
	if turn.Call != "" && turn.PollRun == nil {
		return l.call(ctx, turn, iterate(turn.Source), nil)
	}
	text, sent, problem, err := l.answer(ctx, turn, iterate(turn.Source), turn.PollRun)
	if err != nil {
		return err
	}
	var answer store.SourceAnswer
	if problem == nil {
		answer, problem = readIterate(turn.Source, text)
	}
	if answer.Remark == "" {
		answer.Remark = l.remarks.at(turn.Name, time.Now())
	}
	problem = sent.hideError(problem)
	answer.Remark = sent.hide(answer.Remark)
	for i := range answer.Items {
		answer.Items[i].Refused = sent.hide(answer.Items[i].Refused)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if problem != nil {
		return l.pollFailed(ctx, turn, problem)
	}
	writing, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	taken, err := l.store.AcceptItems(writing, l.term, turn, answer)
	if err != nil {
		if unusable(err) {
			return errors.Join(err, l.pollFailed(ctx, turn, sent.hideError(fmt.Errorf("its items cannot be stored: %w", err))))
		}
		return err
	}
	l.queue.Enqueue(ctx, taken.Parcels)
	l.metrics.polled(turn.Name, outcomeOK)
	l.metrics.took(taken)
	l.remarks.polled(turn.Name, taken, time.Now())
	if turn.Failures > 0 {
		l.log.WithField("source", turn.Name).Info("a source can be polled again")
	}
	return nil
}

// unusable reports whether the database has refused the content, as opposed to
// having been away.
func unusable(err error) bool {
	return !store.SourceChanged(err) && !store.StaleTerm(err) && !store.Unreachable(err) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

func (l *leading) pollFailed(ctx context.Context, turn store.SourceTurn, problem error) error {
	text := shorten([]byte(telemetry.Redact(problem.Error())), problemBytes)
	l.metrics.polled(turn.Name, outcomeFailed)
	if turn.Failures == 0 {
		l.log.WithField("source", turn.Name).Warn("a source cannot be polled; it is tried again: " + text)
	}
	return l.store.FailPoll(ctx, l.term, turn, text)
}

// answer asks the endpoint, or reads the outcome of a run. problem is the fault of
// the source; err means that the database could not be asked.
func (l *leading) answer(ctx context.Context, turn store.SourceTurn, r request, run *uuid.UUID) (text []byte, sent secrets, problem, err error) {
	if run == nil {
		text, sent, problem = l.caller.ask(ctx, turn.Source, r)
		return text, sent, problem, nil
	}
	ended, err := l.store.Run(ctx, *run)
	switch {
	case task.CodeOf(err) == task.CodeNotFound:
		return nil, nil, fmt.Errorf("its run %s is no longer kept", run), nil
	case err != nil:
		return nil, nil, nil, err
	case ended.State != task.StateSucceeded || ended.Outcome == nil:
		return nil, nil, fmt.Errorf("its run %s is %s: %s", run, ended.State, reasonOf(ended)), nil
	case ended.Outcome.Data != nil:
		return ended.Outcome.Data, nil, nil, nil
	}
	text, problem = json.Marshal(ended.Outcome.Extra) // {success: true, items: [...]}
	return text, nil, problem, nil
}

func reasonOf(r task.Run) string {
	if r.Outcome != nil && r.Outcome.Reason != "" {
		return r.Outcome.Reason
	}
	return r.Reason
}

// callChain is the chain of a source's own runs.
func callChain(s task.Source) (json.RawMessage, error) {
	return json.Marshal([]map[string]any{{"call": s.Call, "with": "${params}"}})
}

// call starts the run of a source that is a function; a later look finds its end.
func (l *leading) call(ctx context.Context, turn store.SourceTurn, r request, items []store.ItemOutcome) error {
	chain, err := callChain(turn.Source)
	if err != nil {
		return err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	parcels, err := l.store.CallSource(ctx, l.term, turn, store.SourceCall{Chain: chain, Request: text, Items: items})
	if err == nil {
		l.queue.Enqueue(ctx, parcels)
	}
	return err
}

// record tells a source of ended items, or reads what its run has answered.
func (l *leading) record(ctx context.Context, turn store.SourceTurn) error {
	items, err := l.toRecord(ctx, turn)
	if err != nil || len(items) == 0 && turn.RecordRun == nil {
		return err
	}
	if problem := turn.Validate(); problem != nil {
		return l.recordFailed(ctx, turn, items, problem)
	}
	asked := record(turn.Source, items)
	if turn.Call != "" && turn.RecordRun == nil {
		return l.call(ctx, turn, asked, items)
	}
	text, sent, problem, err := l.answer(ctx, turn, asked, turn.RecordRun)
	if err != nil {
		return err
	}
	var again map[string]time.Duration
	if problem == nil {
		again, problem = readRecord(items, text)
	}
	problem = sent.hideError(problem)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if problem != nil {
		return l.recordFailed(ctx, turn, items, problem)
	}
	writing, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	taken, err := l.store.RecordItems(writing, l.term, turn, items, again)
	if err != nil {
		if unusable(err) {
			return errors.Join(err, l.recordFailed(ctx, turn, items, sent.hideError(fmt.Errorf("its answer cannot be stored: %w", err))))
		}
		return err
	}
	l.queue.Enqueue(ctx, taken.Parcels)
	l.metrics.recordedTo(turn.Name, outcomeOK)
	l.metrics.took(taken)
	l.remarks.requeued(turn.Name, again, time.Now())
	if turn.RecordFailures > 0 {
		l.log.WithField("source", turn.Name).Info("outcomes can be recorded with a source again")
	}
	return nil
}

func (l *leading) toRecord(ctx context.Context, turn store.SourceTurn) ([]store.ItemOutcome, error) {
	if turn.RecordRun != nil {
		return l.store.ItemsOfRecord(ctx, turn)
	}
	return l.store.ItemsToRecord(ctx, l.term, turn, turn.Limit, maxRecord)
}

func (l *leading) recordFailed(ctx context.Context, turn store.SourceTurn, items []store.ItemOutcome, problem error) error {
	text := shorten([]byte(telemetry.Redact(problem.Error())), problemBytes)
	l.metrics.recordedTo(turn.Name, outcomeFailed)
	if turn.RecordFailures == 0 {
		l.log.WithField("source", turn.Name).Warn("outcomes cannot be recorded with a source; it is tried again: " + text)
	}
	return l.store.FailRecord(ctx, l.term, turn, items, text)
}

// end notes which runs of items have ended.
func (l *leading) end(ctx context.Context) error {
	next, _, err := l.store.EndItems(ctx, l.term, l.ended)
	if err == nil {
		l.ended = next
	}
	return err
}

func (l *leading) sweep(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = l.store.SweepItems(ctx, l.term); err != nil {
			return err
		}
	}
	return nil
}
