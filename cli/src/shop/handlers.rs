//! The shop's addresses.
//!
//! What changes something is a POST that answers with a redirect (303), so that a reload repeats
//! nothing. The catalogue never fails: what the store refuses is left away, and told.

use std::sync::Arc;

use axum::extract::{Form, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::catalogue::{Cents, PRODUCTS, Product, product};
use super::pages::{self, Visitor};
use super::prices::{self, Quote};
use super::session::{self, Customer, SessionId};
use super::store::StoreError;
use super::{Place, Shop};

type App = State<Arc<Shop>>;

pub fn router(shop: Arc<Shop>) -> Router {
    Router::new()
        .route("/", get(catalogue))
        .route("/login", get(login_form).post(log_in))
        .route("/logout", post(log_out))
        .route("/basket", get(basket))
        .route("/basket/add", post(add))
        .route("/basket/remove", post(remove))
        .route("/admin", get(admin))
        .route("/admin/price", post(set_price))
        .route("/api/catalogue", get(api_catalogue))
        .route("/api/basket", get(api_basket))
        .route("/api/whoami", get(api_whoami))
        // Both mean: the process is up and has its port. Whether the store answers is not a
        // reason to take the catalogue away, and readiness that follows the store would flap on
        // every server at once.
        .route("/up", get(|| async { "up\n" }))
        .route("/ready", get(|| async { "ready\n" }))
        .fallback(not_found)
        .with_state(shop)
}

async fn catalogue(State(shop): App, headers: HeaderMap) -> Response {
    let (quotes, visitor) = tokio::join!(shop.prices.all(&shop.store), visitor(&shop, &headers));
    page(StatusCode::OK, pages::catalogue(&shop.place, &visitor, &quotes))
}

async fn login_form(State(shop): App) -> Response {
    page(StatusCode::OK, pages::login(&shop.place, None))
}

#[derive(Deserialize)]
struct LogIn {
    name: String,
}

async fn log_in(State(shop): App, Form(form): Form<LogIn>) -> Response {
    let Some(name) = session::checked_name(&form.name) else {
        return page(StatusCode::BAD_REQUEST, pages::login(&shop.place, Some("A name has 1 to 40 letters.")));
    };
    match session::log_in(&shop.store, name).await {
        Ok(id) => with_cookie(see("/"), &id.set_cookie()),
        Err(error) => unavailable(&shop.place, &error),
    }
}

async fn log_out(State(shop): App, headers: HeaderMap) -> Response {
    if let Some(id) = SessionId::from_headers(&headers)
        && let Err(error) = session::log_out(&shop.store, &id).await
    {
        return unavailable(&shop.place, &error);
    }
    with_cookie(see("/"), &SessionId::clear_cookie())
}

async fn basket(State(shop): App, headers: HeaderMap) -> Response {
    match customer(&shop, &headers).await {
        Ok(Some(customer)) => {
            let quotes = shop.prices.all(&shop.store).await;
            page(StatusCode::OK, pages::basket(&shop.place, &customer, &quotes))
        }
        Ok(None) => see("/login"),
        Err(error) => unavailable(&shop.place, &error),
    }
}

#[derive(Deserialize)]
struct Which {
    id: String,
}

async fn add(State(shop): App, headers: HeaderMap, Form(form): Form<Which>) -> Response {
    let Some(product) = product(&form.id) else { return not_found(State(shop)).await };
    match customer(&shop, &headers).await {
        Ok(Some(customer)) => match session::add(&shop.store, &customer.id, product).await {
            Ok(()) => see(&format!("/#{}", product.id)),
            Err(error) => unavailable(&shop.place, &error),
        },
        Ok(None) => see("/login"),
        Err(error) => unavailable(&shop.place, &error),
    }
}

async fn remove(State(shop): App, headers: HeaderMap, Form(form): Form<Which>) -> Response {
    let Some(product) = product(&form.id) else { return not_found(State(shop)).await };
    let Some(id) = SessionId::from_headers(&headers) else { return see("/login") };
    match session::remove(&shop.store, &id, product).await {
        Ok(()) => see("/basket"),
        Err(error) => unavailable(&shop.place, &error),
    }
}

async fn admin(State(shop): App) -> Response {
    let quotes = shop.prices.all(&shop.store).await;
    page(StatusCode::OK, pages::admin(&shop.place, &quotes, None))
}

#[derive(Deserialize)]
struct NewPrice {
    id: String,
    price: String,
}

async fn set_price(State(shop): App, Form(form): Form<NewPrice>) -> Response {
    let Some(product) = product(&form.id) else { return not_found(State(shop)).await };
    let Some(price) = Cents::parse(&form.price) else {
        let quotes = shop.prices.all(&shop.store).await;
        let page_text = pages::admin(&shop.place, &quotes, Some("A price is a number such as 12.50."));
        return page(StatusCode::BAD_REQUEST, page_text);
    };
    match shop.store.set_and_invalidate(&prices::key(product.id), &price.0.to_string()).await {
        Ok(()) => see("/admin"),
        Err(error) => unavailable(&shop.place, &error),
    }
}

async fn api_catalogue(State(shop): App) -> Response {
    let quotes = shop.prices.all(&shop.store).await;
    let products: Vec<Value> =
        PRODUCTS.iter().zip(&quotes).map(|(product, quote)| offer(product, quote)).collect();
    api(StatusCode::OK, json!({"products": products, "served_by": whoami(&shop.place)}))
}

async fn api_whoami(State(shop): App) -> Response {
    api(StatusCode::OK, whoami(&shop.place))
}

async fn api_basket(State(shop): App, headers: HeaderMap) -> Response {
    let customer = match customer(&shop, &headers).await {
        Ok(Some(customer)) => customer,
        Ok(None) => {
            return api(
                StatusCode::UNAUTHORIZED,
                json!({"error": "not logged in, or the session has expired"}),
            );
        }
        Err(error) => {
            return retry_soon(api(StatusCode::SERVICE_UNAVAILABLE, json!({"error": error.to_string()})));
        }
    };
    let quotes = shop.prices.all(&shop.store).await;
    let lines = pages::lines(&customer, &quotes);
    let items: Vec<Value> = lines
        .iter()
        .map(|line| {
            let mut item = offer(line.product, line.quote);
            item["quantity"] = line.count.into();
            item
        })
        .collect();
    let total_cents: u64 = lines.iter().map(pages::Line::cents).sum();
    let body = json!({"name": customer.name, "items": items, "total_cents": total_cents, "served_by": whoami(&shop.place)});
    api(StatusCode::OK, body)
}

async fn not_found(State(shop): App) -> Response {
    page(StatusCode::NOT_FOUND, pages::not_found(&shop.place))
}

fn offer(product: &Product, quote: &Quote) -> Value {
    json!({
        "id": product.id,
        "name": product.name,
        "price": quote.price.to_string(),
        "price_cents": quote.price.0,
        "source": quote.source,
    })
}

fn whoami(place: &Place) -> Value {
    let Place { title: _, node, zone, app, release, version, pid, port } = place;
    json!({"node": node, "zone": zone, "app": app, "release": release, "version": version, "pid": pid, "port": port})
}

async fn customer(shop: &Shop, headers: &HeaderMap) -> Result<Option<Customer>, StoreError> {
    match SessionId::from_headers(headers) {
        Some(id) => session::load(&shop.store, id).await,
        None => Ok(None),
    }
}

/// Who looks at a page that is shown in any case.
async fn visitor(shop: &Shop, headers: &HeaderMap) -> Visitor {
    match customer(shop, headers).await {
        Ok(Some(customer)) => Visitor::Customer { name: customer.name.clone(), pieces: customer.pieces() },
        Ok(None) => Visitor::Stranger,
        Err(error) => Visitor::Unknown { reason: error.to_string() },
    }
}

fn page(status: StatusCode, html: String) -> Response {
    let mut response = (status, Html(html)).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Everything that a page needs is in it.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn api(status: StatusCode, body: Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 303: whatever this was, go on with a GET.
fn see(path: &str) -> Response {
    let location = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(LOCATION, location)]).into_response()
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(SET_COOKIE, value);
    }
    response
}

fn unavailable(place: &Place, error: &StoreError) -> Response {
    eprintln!("answered 503: {error}");
    retry_soon(page(StatusCode::SERVICE_UNAVAILABLE, pages::unavailable(place, &error.to_string())))
}

fn retry_soon(mut response: Response) -> Response {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
