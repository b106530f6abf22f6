package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/task"
)

const (
	batchSize    = 500     // runs per request
	batchSenders = 4       // requests at once
	maxLine      = 8 << 20 // bytes of one line
)

// batchResult is what task run --from prints.
type batchResult struct {
	Task       string  `json:"task"`
	Batch      string  `json:"batch"`
	Count      int     `json:"count"`
	Duplicates int     `json:"duplicates"`
	Seconds    float64 `json:"seconds"`
	*batchStates
}

// batchStates counts how the runs ended, when they were waited for.
type batchStates struct {
	Succeeded   int `json:"succeeded"`
	Failed      int `json:"failed"`
	Cancelled   int `json:"cancelled"`
	TimedOut    int `json:"timed_out"`
	Quarantined int `json:"quarantined"`
}

func (s *session) runBatch(cmd *cobra.Command, name string, f runFlags) error {
	at, err := s.at(cmd, f.at)
	if err != nil {
		return err
	}
	source, err := s.openLines(f.from)
	if err != nil {
		return err
	}
	defer source.Close()
	b := &batch{session: s, task: name, file: f.from, id: f.batch, at: at, progress: newProgress(s)}
	if err := b.check(source); err != nil {
		return err
	}
	if b.client, err = s.client(); err != nil {
		return err
	}
	if b.id == "" {
		b.id = strings.ToLower(rand.Text()[:12])
	}
	return b.run(cmd.Context(), source, f)
}

// openLines opens a file, or reads standard input whole, since the lines are
// read twice.
func (s *session) openLines(path string) (io.ReadSeekCloser, error) {
	if path == "-" {
		text, err := io.ReadAll(s.in)
		return inMemory{bytes.NewReader(text)}, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fileError(err)
	}
	return file, nil
}

// inMemory is a text that needs no closing.
type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// batch is one task run --from.
type batch struct {
	*session
	client     *client.Client
	task       string
	file       string
	id         string
	at         *time.Time
	total      int
	progress   *progress
	mu         sync.Mutex // guards what follows
	ids        []uuid.UUID
	duplicates int
}

// check reads every line once, so that nothing starts when one of them is bad.
func (b *batch) check(source io.ReadSeeker) error {
	err := b.lines(source, func(int, json.RawMessage) error {
		b.total++
		return nil
	})
	if err == nil && b.total == 0 {
		err = task.Errorf(task.CodeInvalid, "the file holds no line").At(b.file).Fix("write one JSON object per line")
	}
	return err
}

// lines calls each for every line that is not blank, with its number.
func (b *batch) lines(source io.ReadSeeker, each func(line int, params json.RawMessage) error) error {
	if _, err := source.Seek(0, io.SeekStart); err != nil {
		return task.Errorf(task.CodeInvalid, "the file cannot be read twice: %w", err).At(b.file).Fix("use a plain file, or - for standard input")
	}
	scanner := bufio.NewScanner(source)
	scanner.Buffer(make([]byte, 0, 64<<10), maxLine)
	line := 0
	for scanner.Scan() {
		line++
		text := bytes.TrimSpace(scanner.Bytes())
		if len(text) == 0 {
			continue
		}
		where := fmt.Sprintf("%s:%d", b.file, line)
		var object map[string]json.RawMessage
		if err := json.Unmarshal(text, &object); err != nil || object == nil {
			return badObject(err).At(where)
		}
		if err := each(line, bytes.Clone(text)); err != nil {
			return err
		}
	}
	if errors.Is(scanner.Err(), bufio.ErrTooLong) {
		return task.Errorf(task.CodeTooLarge, "the line is longer than %d MiB", maxLine>>20).At(fmt.Sprintf("%s:%d", b.file, line+1)).Fix("pass large data by reference")
	}
	return scanner.Err()
}

func (b *batch) run(ctx context.Context, source io.ReadSeeker, f runFlags) error {
	b.note("batch %s: %s of %s; if interrupted, go on with: %s", b.id, counted(b.total, "run"), b.task, b.again(f))
	begin := time.Now()
	if err := b.send(ctx, source); err != nil {
		b.note("at least %d of %d runs are accepted and go on; start the rest with: %s", len(b.ids), b.total, b.again(f))
		return err
	}
	result := batchResult{Task: b.task, Batch: b.id, Count: len(b.ids), Duplicates: b.duplicates}
	if f.wait {
		states, err := b.wait(ctx, f.timeout)
		if err != nil {
			b.note("the runs go on; wait for them again with: %s", b.again(f))
			return err
		}
		result.batchStates = states
	}
	result.Seconds = float64(time.Since(begin).Milliseconds()) / 1000
	return b.report(result)
}

// again is the command that goes on with this batch.
func (b *batch) again(f runFlags) string {
	text := b.Name + " task run " + b.task + " --from " + quoted(b.file) + " --batch " + b.id
	if b.at != nil {
		text += " --at " + b.at.Format(time.RFC3339Nano)
	}
	if f.wait {
		text += " --wait"
	}
	return text
}

// quoted writes a word as a shell reads it.
func quoted(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+,:@%") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// send starts the runs of all lines, in a few requests at once. After a failed
// request no further one begins, but those under way are heard out, so that the
// count of accepted runs is right.
func (b *batch) send(ctx context.Context, source io.ReadSeeker) error {
	filling, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work := make(chan []client.RunRequest)
	var senders sync.WaitGroup
	for range batchSenders {
		senders.Go(func() {
			for requests := range work {
				if err := b.sendOne(ctx, requests); err != nil {
					stop(err)
				}
			}
		})
	}
	err := b.fill(filling, source, work)
	close(work)
	senders.Wait()
	b.progress.end()
	if filling.Err() != nil {
		return interrupted(filling)
	}
	return err
}

// fill cuts the lines into requests; the error of a sender ends it.
func (b *batch) fill(ctx context.Context, source io.ReadSeeker, work chan<- []client.RunRequest) error {
	var requests []client.RunRequest
	flush := func() error {
		select {
		case work <- requests:
			requests = nil
			return nil
		case <-ctx.Done():
			return interrupted(ctx)
		}
	}
	err := b.lines(source, func(line int, params json.RawMessage) error {
		requests = append(requests, client.RunRequest{Params: params, At: b.at, Key: fmt.Sprintf("%s:%d", b.id, line)})
		if len(requests) < batchSize {
			return nil
		}
		return flush()
	})
	if err == nil && len(requests) > 0 {
		err = flush()
	}
	return err
}

// interrupted returns why ctx ended, with a code.
func interrupted(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) {
		return task.Errorf(task.CodeCancelled, "interrupted")
	}
	return cause
}

func (b *batch) sendOne(ctx context.Context, requests []client.RunRequest) error {
	result, err := b.client.StartRuns(ctx, b.task, requests)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ids = append(b.ids, result.IDs...)
	b.duplicates += result.Duplicates
	b.progress.show("accepted", len(b.ids), b.total)
	return nil
}

func (b *batch) wait(ctx context.Context, timeout time.Duration) (*batchStates, error) {
	ctx, cancel := within(ctx, timeout)
	defer cancel()
	states, err := b.client.WaitRuns(ctx, b.ids, func(done, total int) { b.progress.show("ended", done, total) })
	b.progress.end()
	if err != nil {
		return nil, err
	}
	var counts batchStates
	for _, state := range states {
		switch state {
		case task.StateSucceeded:
			counts.Succeeded++
		case task.StateCancelled:
			counts.Cancelled++
		case task.StateTimedOut:
			counts.TimedOut++
		case task.StateQuarantined:
			counts.Quarantined++
		default:
			counts.Failed++
		}
	}
	return &counts, nil
}

func (b *batch) report(r batchResult) error {
	if err := b.printResult(r); err != nil {
		return err
	}
	if r.batchStates != nil && r.Failed+r.Cancelled+r.TimedOut+r.Quarantined > 0 {
		return errQuiet
	}
	return nil
}

func (b *batch) printResult(r batchResult) error {
	if b.json {
		return b.writeJSON(r)
	}
	text := fmt.Sprintf("%s of %s in %.3f s (batch %s, %d started before)", counted(r.Count, "run"), r.Task, r.Seconds, r.Batch, r.Duplicates)
	if r.batchStates != nil {
		text += fmt.Sprintf(": %d succeeded, %d failed, %d cancelled, %d timed out, %d quarantined",
			r.Succeeded, r.Failed, r.Cancelled, r.TimedOut, r.Quarantined)
	}
	return b.println(text)
}
